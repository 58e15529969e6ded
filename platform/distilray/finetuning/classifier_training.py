"""Trains a classifier on a task, on one worker or several. An interrupted training resumes from its checkpoint."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.glue import TaskConfig, TaskDistillationConfig
from distilray.errors import InputError
from distilray.finetuning.features import Features, TaskFeatures
from distilray.finetuning.metrics import task_scores
from distilray.finetuning.objective import (
    ClassifierLoss,
    FineTuningObjective,
    adamw,
    evaluation_steps,
    learning_rate_factor,
    predict,
    step_batches,
    steps_per_epoch,
    total_steps,
)
from distilray.finetuning.progress import Evaluation, EvaluationHistory, FineTuneState
from distilray.finetuning.tasks import TASKS
from distilray.pretraining_data.batches import WIDTH_MULTIPLE, padded_width
from distilray.pretraining_data.sample_plan import PlanState
from distilray.training.loop import Hook, Step, Stop, train
from distilray.training.optimizer import Updater
from distilray.training.process_group import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierTraining:
    """A classifier, the task that it learns, and all that determines the result.

    Attributes:
        model: from `load_classifier`, the same on every worker; it is trained in place.
        dtype: of the matrix products; weights stay in fp32.
        workers: share the batches and the evaluations.
        teacher_outputs: (training rows, num_outputs) of a teacher; None without `distillation`.
    """

    model: Any
    features: TaskFeatures
    settings: TaskConfig
    seed: int
    device: torch.device
    dtype: torch.dtype
    workers: Workers = field(default_factory=Workers.single)
    teacher_outputs: NDArray[np.float32] | None = None
    distillation: TaskDistillationConfig | None = None

    @property
    def evaluation_steps(self) -> list[int]:
        """Finished steps at each evaluation."""
        return evaluation_steps(len(self.features.train), self.settings)

    def outputs(self, splits: Mapping[str, Features]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs for every row, (rows, num_outputs) by split. All workers call it together."""
        pad_id, device, dtype, workers = self.features.pad_id, self.device, self.dtype, self.workers
        return {
            name: predict(self.model, split, pad_id=pad_id, device=device, dtype=dtype, workers=workers)
            for name, split in splits.items()
        }

    def dev_scores(self) -> dict[str, float]:
        """Return the scores on the dev sets. All workers call it together."""
        return task_scores(TASKS[self.features.task], self.outputs(self.features.dev), self.features.dev_labels)

    def identity(self) -> str:
        """Return the sha256 of all that determines the result, except for the models.

        A teacher's outputs are not exactly the same on another device.
        """
        taught = None if self.distillation is None else self.distillation.model_dump(exclude={"teacher_run_dir"})
        settings = self.settings.model_dump(mode="json", exclude={"seeds"})
        digest = hashlib.sha256(json.dumps([self.features.task, settings, self.seed, taught]).encode())
        for split in (self.features.train, *self.features.dev.values()):
            for values in (split.input_ids, split.offsets, split.second_starts, split.labels):
                assert values is not None
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def fine_tune(
    run: ClassifierTraining,
    *,
    folder: str | None,
    report: Callable[[Evaluation], bool] = lambda _: True,
    max_seconds: float | None = None,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
    notice: Callable[[str], None] = log.warning,
    clock: Callable[[], float] = time.monotonic,
) -> EvaluationHistory:
    """Train a classifier; at the end it has the weights of its best evaluation and is in eval mode.

    No random state is saved: order and dropout follow from (seed, step, rank), so that on a CPU a resumed run ends with
    the same weights and scores as an uninterrupted one.

    Args:
        folder: path or URI. An interrupted run resumes from it; a complete one has `evaluations.json` and the best
            model in `model/` there. None keeps nothing.
        report: receives each new evaluation, on every worker, before its checkpoint is written; False ends the run.
        max_seconds: time after which the run ends, without interruptions; it is evaluated at least once.
        moved: receives the finished steps and all steps, after each step.
        notice: receives user-facing messages.

    Raises:
        InputError: the model reads fewer tokens than `max_length`, or `folder` cannot be written.
        BrokenCheckpointError: `folder` belongs to a fine-tuning with other settings or data.
        RuntimeError: a gradient or an output is not finite.
    """
    check_length(run.model, run.settings)
    optimizer = adamw(run.model.to(run.device).train(), run.settings)
    progress = FineTuneState(
        folder,
        identity=run.identity(),
        metric=run.settings.metric,
        planned=len(run.evaluation_steps),
        tokenizer_json=run.features.tokenizer_json,
        workers=run.workers,
        notice=notice,
    )
    try:
        ended = _train(run, optimizer, Evaluations(run, progress, optimizer, report, on_step, max_seconds, clock))
        return progress.finish(run.model, ended)
    finally:
        progress.close()
        run.model.eval()


def _train(run: ClassifierTraining, optimizer: torch.optim.Optimizer, evaluations: "Evaluations") -> str:
    """Train from the last checkpoint on, and return why training ended."""
    assert (run.teacher_outputs is None) == (run.distillation is None)
    total = total_steps(len(run.features.train), run.settings)
    schedule = partial(learning_rate_factor, total_steps=total, settings=run.settings)
    updater = Updater(run.model, optimizer, schedule, max_grad_norm=run.settings.max_grad_norm, on_nonfinite="fail")
    module = run.workers.wrap(ClassifierLoss(run.model, run.dtype, run.distillation), run.device)
    start = evaluations.resume()
    if ended := evaluations.progress.ended:
        return ended
    batches = step_batches(
        run.features, run.settings, run.seed, run.workers, start=start, teacher_outputs=run.teacher_outputs
    )
    objective = FineTuningObjective(module, run.seed, run.workers, run.device)
    stop = train(objective, batches, updater, run.workers, [evaluations], start=start, total=total)
    assert stop is not None  # the hook ends training with its last step at the latest
    return stop.reason


@dataclass
class Evaluations(Hook):
    """Evaluates a fine-tuning, and ends it: when complete, stopped, out of patience or out of time.

    Attributes:
        report: receives each evaluation; False ends the run.
        moved: receives the finished steps and all steps, after each step.
    """

    run: ClassifierTraining
    progress: FineTuneState
    optimizer: torch.optim.Optimizer
    report: Callable[[Evaluation], bool]
    on_step: Callable[[int, int], None]
    max_seconds: float | None
    clock: Callable[[], float]
    _begun: float = 0.0
    _loss_sum: float = 0.0
    _rows_seen: int = 0

    phase = "evaluation"

    def __post_init__(self) -> None:
        self._evaluated = frozenset(self.run.evaluation_steps)

    def resume(self) -> int:
        """Restore the last checkpoint, and return its step. The time of its evaluation counts, and that from now on."""
        begun = self.clock()
        start = self.progress.resume(self.run.model, self.optimizer)
        self._begun = begun - (self.progress.evaluations[-1].seconds if self.progress.evaluations else 0.0)
        return start

    def after_step(self, step: Step) -> Stop | None:
        """Evaluate if it is time for it; all workers come to the same decision."""
        self._loss_sum += step.terms["row_losses"]
        self._rows_seen += sum(batch.rows for batch in step.batches)
        self.on_step(step.done, step.total)
        is_late = self.max_seconds is not None and self.run.workers.any(self._seconds() > self.max_seconds)
        is_due = step.done in self._evaluated or (is_late and not self.progress.evaluations)
        if is_due and (reason := self._evaluate(step)):
            return Stop(reason)
        return Stop("time") if is_late else None

    def _evaluate(self, step: Step) -> str | None:
        """Return why the run ends, or write a checkpoint."""
        progress, run = self.progress, self.run
        per_epoch = steps_per_epoch(len(run.features.train), run.settings)
        scores, train_loss = run.dev_scores(), self._train_loss()
        number, epoch = len(progress.evaluations) + 1, step.done / per_epoch
        evaluation = Evaluation(number, step.done, epoch, scores, train_loss, self._seconds())
        progress.add(evaluation, run.model)
        is_stopped = run.workers.any(not self.report(evaluation))
        if step.is_last:
            return "complete"
        if is_stopped:
            return "stopped"
        patience = run.settings.patience
        if patience is not None and number - progress.best.number >= patience:
            return "patience"
        whole, inside = divmod(step.done, per_epoch)
        progress.save(run.model, self.optimizer, PlanState(whole, inside * run.settings.batch_size))
        return None

    def _train_loss(self) -> float:
        """Return the mean loss over the rows since the last evaluation, or the start."""
        total, rows = self.run.workers.sum_numbers([self._loss_sum])[0], self._rows_seen
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
