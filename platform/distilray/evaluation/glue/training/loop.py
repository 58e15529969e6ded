"""A fine-tuning from the start, or from where it was interrupted, to its end."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.glue import TaskConfig, TaskDistillationConfig
from distilray.errors import InputError
from distilray.evaluation.glue.features import TaskFeatures
from distilray.evaluation.glue.tasks import GlueTask
from distilray.evaluation.glue.training.evaluation import Evaluation, FineTuned
from distilray.evaluation.glue.training.progress import Progress
from distilray.evaluation.glue.training.steps import Steps
from distilray.pretraining_data.batches import WIDTH_MULTIPLE, padded_width
from distilray.training.process_group import Workers

log = logging.getLogger(__name__)


def fine_tune(
    model: Any,
    features: TaskFeatures,
    settings: TaskConfig,
    *,
    task: GlueTask,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    folder: str | None,
    workers: Workers | None = None,
    report: Callable[[Evaluation], bool] = lambda _: True,
    teacher_outputs: NDArray[np.float32] | None = None,
    distillation: TaskDistillationConfig | None = None,
    max_seconds: float | None = None,
    moved: Callable[[int, int], None] = lambda _step, _steps: None,
    notice: Callable[[str], None] = log.warning,
    clock: Callable[[], float] = time.monotonic,
) -> FineTuned:
    """Trains a classifier in place; at the end it has the weights of its best evaluation, and is in eval mode.

    Nothing random is saved: order and dropout follow from (seed, step, rank), so that on a CPU an interrupted run ends
    with the very weights and scores of one that was not.

    Args:
        model: of `load_classifier`; the same on every worker.
        dtype: of the matrix products; weights stay in fp32.
        folder: path or URI where the run can go on after an interruption, and leaves `evaluations.json` and the best
            model in `model/`; None keeps nothing.
        workers: that share the batches and the evaluations; one when None.
        report: is told each new evaluation, on every worker, before its checkpoint is written; False ends the run.
        teacher_outputs: (training rows, num_outputs) of a teacher, with `distillation`.
        max_seconds: the run ends where it is after so long, interruptions not counted; it is evaluated at least once.
        moved: (finished steps, steps of all) after each step.
        notice: takes a line that people should see.

    Raises:
        InputError: the model reads fewer tokens than `settings.max_length`, or `folder` cannot be written.
        BrokenCheckpointError: `folder` is that of a fine-tuning with other settings or data.
        RuntimeError: a gradient or an output is not finite.
    """
    check_length(model, settings)
    assert (teacher_outputs is None) == (distillation is None)
    workers = workers or Workers.single()
    steps = Steps(
        model.to(device),
        features,
        settings,
        task=task,
        seed=seed,
        device=device,
        dtype=dtype,
        workers=workers,
        teacher_outputs=teacher_outputs,
        distillation=distillation,
    )
    progress = Progress(
        folder,
        identity=_identity(features, settings, seed, distillation),
        metric=settings.metric,
        planned=len(steps.evaluated),
        tokenizer_json=features.tokenizer_json,
        workers=workers,
        notice=notice,
    )
    try:
        return _Run(steps, progress, workers, settings.patience, report, max_seconds, clock).to_end(moved)
    finally:
        progress.close()
        model.eval()


class _Run:
    """The steps with the decisions after each of them, which are the same on every worker."""

    def __init__(
        self,
        steps: Steps,
        progress: Progress,
        workers: Workers,
        patience: int | None,
        report: Callable[[Evaluation], bool],
        max_seconds: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._steps, self._progress, self._workers = steps, progress, workers
        self._patience, self._report, self._max_seconds, self._clock = patience, report, max_seconds, clock
        self._begun = clock()

    def to_end(self, moved: Callable[[int, int], None]) -> FineTuned:
        steps, progress = self._steps, self._progress
        done = progress.resume(steps.model, steps.optimizer)
        self._begun -= progress.evaluations[-1].seconds if progress.evaluations else 0.0
        ended = progress.ended
        while not ended:
            steps.take(done)
            done += 1
            moved(done, steps.total)
            is_late = self._is_late()
            if done in steps.evaluated or (is_late and not progress.evaluations):
                ended = self._evaluate(done)
            if is_late and not ended:
                ended = "time"
        return progress.finish(steps.model, ended)

    def _is_late(self) -> bool:
        limit = self._max_seconds
        return limit is not None and self._workers.any(self._seconds() > limit)

    def _evaluate(self, done: int) -> str | None:
        """Evaluates after `done` steps; says why the run ends, or writes a checkpoint."""
        steps, progress = self._steps, self._progress
        scores, train_loss = steps.scores(), steps.train_loss()
        number, epoch = len(progress.evaluations) + 1, done / steps.per_epoch
        evaluation = Evaluation(number, done, epoch, scores, train_loss, self._seconds())
        progress.add(evaluation, steps.model)
        is_stopped = self._workers.any(not self._report(evaluation))
        if done == steps.total:
            return "complete"
        if is_stopped:
            return "stopped"
        if self._patience is not None and number - progress.best.number >= self._patience:
            return "patience"
        progress.save(steps.model, steps.optimizer, steps.plan(done))
        return None

    def _seconds(self) -> float:
        return self._clock() - self._begun


def check_length(model: Any, settings: TaskConfig) -> None:
    """Check that a model reads `settings.max_length` tokens.

    Raises:
        InputError: it reads fewer.
    """
    positions = model.config.max_position_embeddings
    if padded_width(settings.max_length) > positions:
        most = positions // WIDTH_MULTIPLE * WIDTH_MULTIPLE
        raise InputError(
            f"max_length: {settings.max_length}, and the model reads {positions} tokens; set {most} or less"
        )


def _identity(
    features: TaskFeatures,
    settings: TaskConfig,
    seed: int,
    distillation: TaskDistillationConfig | None,
) -> str:
    """sha256 of all that decides the result, but the models, which whoever names the folder knows.

    A teacher's outputs are not exactly the same on another device.
    """
    taught = None if distillation is None else distillation.model_dump(exclude={"teacher_run_dir"})
    told = [features.task, settings.model_dump(mode="json", exclude={"seeds"}), seed, taught]
    digest = hashlib.sha256(json.dumps(told).encode())
    for split in (features.train, *features.dev.values()):
        for values in (split.input_ids, split.offsets, split.second_starts, split.labels):
            assert values is not None
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
