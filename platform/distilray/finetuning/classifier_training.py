"""Fine-tuning of a classifier on a task, on one worker or several; it resumes where it was interrupted."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.glue import TaskConfig, TaskDistillationConfig
from distilray.errors import InputError
from distilray.finetuning.evaluation import Evaluation, FineTuned
from distilray.finetuning.features import TaskFeatures
from distilray.finetuning.metrics import task_scores
from distilray.finetuning.objective import (
    ClassifierLoss,
    FineTuningObjective,
    predict,
    step_batches,
)
from distilray.finetuning.progress import Progress
from distilray.finetuning.schedule import (
    adamw,
    evaluation_steps,
    rate_share,
    steps_per_epoch,
    total_steps,
)
from distilray.finetuning.tasks import GlueTask
from distilray.pretraining_data.batches import WIDTH_MULTIPLE, padded_width
from distilray.pretraining_data.sample_plan import PlanState
from distilray.training.loop import Hook, Step, Stop, train
from distilray.training.optimizer import Updater
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
    """Train a classifier in place; at the end it has the weights of its best evaluation, and is in eval mode.

    Nothing random is saved: order and dropout follow from (seed, step, rank), so that on a CPU an interrupted run ends
    with the very weights and scores of one that was not.

    Args:
        model: of `load_classifier`; the same on every worker.
        dtype: of the matrix products; weights stay in fp32.
        folder: path or URI; an interrupted run resumes from it, and a complete one has `evaluations.json` and the best
            model in `model/` there. None keeps nothing.
        workers: that share the batches and the evaluations; one when None.
        report: receives each new evaluation, on every worker, before its checkpoint is written; False ends the run.
        teacher_outputs: (training rows, num_outputs) of a teacher, with `distillation`.
        max_seconds: the run ends where it is after so long, interruptions not counted; it is evaluated at least once.
        moved: (finished steps, steps of all) after each step.
        notice: takes a user-facing line.

    Raises:
        InputError: the model reads fewer tokens than `settings.max_length`, or `folder` cannot be written.
        BrokenCheckpointError: `folder` is that of a fine-tuning with other settings or data.
        RuntimeError: a gradient or an output is not finite.
    """
    check_length(model, settings)
    assert (teacher_outputs is None) == (distillation is None)
    workers, rows = workers or Workers.single(), len(features.train)
    total = total_steps(rows, settings)
    optimizer = adamw(model.to(device).train(), settings)
    schedule = partial(rate_share, total_steps=total, settings=settings)
    updater = Updater(model, optimizer, schedule, max_grad_norm=settings.max_grad_norm, on_nonfinite="fail")
    module = workers.wrap(ClassifierLoss(model, dtype, distillation), device)
    progress = Progress(
        folder,
        identity=_identity(features, settings, seed, distillation),
        metric=settings.metric,
        planned=len(evaluation_steps(rows, settings)),
        tokenizer_json=features.tokenizer_json,
        workers=workers,
        notice=notice,
    )
    scores = partial(dev_scores, model, features, task, device=device, dtype=dtype, workers=workers)
    evaluations = Evaluations(
        progress, model, optimizer, settings, rows, scores, workers, report, moved, max_seconds, clock
    )
    objective = FineTuningObjective(module, seed, workers, device)
    try:
        begun = clock()
        start = progress.resume(model, optimizer)
        evaluations.count_time_from(begun)
        ended = progress.ended
        if not ended:
            batches = step_batches(features, settings, seed, workers, start=start, teacher_outputs=teacher_outputs)
            stop = train(objective, batches, updater, workers, [evaluations], start=start, total=total)
            assert stop is not None  # the hook ends training with its last step at the latest
            ended = stop.reason
        return progress.finish(model, ended)
    finally:
        progress.close()
        model.eval()


def dev_scores(
    model: Any,
    features: TaskFeatures,
    task: GlueTask,
    *,
    device: torch.device,
    dtype: torch.dtype,
    workers: Workers,
) -> dict[str, float]:
    """Return the scores on the dev sets; all workers together."""
    outputs, labels = {}, {}
    for name, split in features.dev.items():
        assert split.labels is not None
        labels[name] = split.labels
        outputs[name] = predict(model, split, pad_id=features.pad_id, device=device, dtype=dtype, workers=workers)
    return task_scores(task, outputs, labels)


@dataclass
class Evaluations(Hook):
    """Evaluates a fine-tuning, and ends it: when complete, stopped, out of patience or out of time.

    Attributes:
        rows: of the training set.
        scores: returns the scores on the dev sets.
        report: receives each evaluation; False ends the run.
        moved: (finished steps, steps of all) after each step.
    """

    progress: Progress
    model: Any
    optimizer: torch.optim.Optimizer
    settings: TaskConfig
    rows: int
    scores: Callable[[], Mapping[str, float]]
    workers: Workers
    report: Callable[[Evaluation], bool]
    moved: Callable[[int, int], None]
    max_seconds: float | None
    clock: Callable[[], float]
    _begun: float = 0.0
    _loss_sum: float = 0.0
    _rows_seen: int = 0

    phase = "evaluation"

    def __post_init__(self) -> None:
        self._evaluated = frozenset(evaluation_steps(self.rows, self.settings))

    def count_time_from(self, now: float) -> None:
        """Count the time from now on; that of the evaluations before an interruption is added."""
        self._begun = now - (self.progress.evaluations[-1].seconds if self.progress.evaluations else 0.0)

    def after_step(self, step: Step) -> Stop | None:
        """Evaluate if it is time for it; all workers come to the same decision."""
        self._loss_sum += step.terms["row_losses"]
        self._rows_seen += sum(batch.rows for batch in step.batches)
        self.moved(step.done, step.total)
        is_late = self.max_seconds is not None and self.workers.any(self._seconds() > self.max_seconds)
        is_due = step.done in self._evaluated or (is_late and not self.progress.evaluations)
        if is_due and (reason := self._evaluate(step)):
            return Stop(reason)
        return Stop("time") if is_late else None

    def _evaluate(self, step: Step) -> str | None:
        """Return why the run ends, or write a checkpoint."""
        progress, per_epoch = self.progress, steps_per_epoch(self.rows, self.settings)
        scores, train_loss = self.scores(), self._train_loss()
        number, epoch = len(progress.evaluations) + 1, step.done / per_epoch
        evaluation = Evaluation(number, step.done, epoch, scores, train_loss, self._seconds())
        progress.add(evaluation, self.model)
        is_stopped = self.workers.any(not self.report(evaluation))
        if step.is_last:
            return "complete"
        if is_stopped:
            return "stopped"
        patience = self.settings.patience
        if patience is not None and number - progress.best.number >= patience:
            return "patience"
        whole, inside = divmod(step.done, per_epoch)
        progress.save(self.model, self.optimizer, PlanState(whole, inside * self.settings.batch_size))
        return None

    def _train_loss(self) -> float:
        """Return the mean loss over the rows since the last evaluation, or the start."""
        total, rows = self.workers.sum_numbers([self._loss_sum])[0], self._rows_seen
        self._loss_sum, self._rows_seen = 0.0, 0
        return total / max(1, rows)

    def _seconds(self) -> float:
        return self.clock() - self._begun


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
    decisive = [features.task, settings.model_dump(mode="json", exclude={"seeds"}), seed, taught]
    digest = hashlib.sha256(json.dumps(decisive).encode())
    for split in (features.train, *features.dev.values()):
        for values in (split.input_ids, split.offsets, split.second_starts, split.labels):
            assert values is not None
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
