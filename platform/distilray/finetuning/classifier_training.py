"""Training of a classifier on a task, on one or several workers, with evaluation, early stopping and resumption."""

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
from distilray.finetuning.fine_tune_state import Evaluation, EvaluationHistory, FineTuneState
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
from distilray.finetuning.tasks import TASKS
from distilray.pretraining_data.batches import WIDTH_MULTIPLE, padded_width
from distilray.pretraining_data.sample_plan import PlanState
from distilray.training.loop import Hook, Step, Stop, train
from distilray.training.optimizer import Updater
from distilray.training.process_group import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierTraining:
    """A classifier, its task, and all settings that determine the result.

    Attributes:
        model: result of `load_classifier`, the same on every worker. It is trained in place.
        dtype: dtype of the matrix products; weights remain in fp32.
        workers: workers that share batches and evaluations.
        teacher_outputs: (training rows, num_outputs) outputs of a teacher; None without `distillation`.
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
        """Steps after which the model is evaluated."""
        return evaluation_steps(len(self.features.train), self.settings)

    def outputs(self, splits: Mapping[str, Features]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs for every row, (rows, num_outputs) by split. All workers must call it together."""
        pad_id, device, dtype, workers = self.features.pad_id, self.device, self.dtype, self.workers
        return {
            name: predict(self.model, split, pad_id=pad_id, device=device, dtype=dtype, workers=workers)
            for name, split in splits.items()
        }

    def dev_scores(self) -> dict[str, float]:
        """Return the scores on the dev sets. All workers must call it together."""
        return task_scores(TASKS[self.features.task], self.outputs(self.features.dev), self.features.dev_labels)

    def identity(self) -> str:
        """Return the sha256 of everything that determines the result, except the models.

        The outputs of a teacher are excluded because they vary slightly between devices.
        """
        distillation = None if self.distillation is None else self.distillation.model_dump(exclude={"teacher_run_dir"})
        settings = self.settings.model_dump(mode="json", exclude={"seeds"})
        digest = hashlib.sha256(json.dumps([self.features.task, settings, self.seed, distillation]).encode())
        for split in (self.features.train, *self.features.dev.values()):
            for values in (split.input_ids, split.offsets, split.second_starts, split.labels):
                assert values is not None
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def fine_tune(
    training: ClassifierTraining,
    *,
    folder: str | None,
    report: Callable[[Evaluation], bool] = lambda _: True,
    max_seconds: float | None = None,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
    notice: Callable[[str], None] = log.warning,
    clock: Callable[[], float] = time.monotonic,
) -> EvaluationHistory:
    """Train a classifier, and leave it in eval mode with the weights of its best evaluation.

    No random state is saved, because batches and dropout only depend on (seed, step, rank). On a CPU, a resumed run
    therefore ends with the same weights and scores as an uninterrupted one.

    Args:
        folder: path or URI. An interrupted run resumes from it; a complete one stores `evaluations.json` there, and the
            best model in `model/`. None stores nothing.
        report: receives each new evaluation on every worker, before its checkpoint is written. Return False to stop.
        max_seconds: maximum training time without interruptions. The model is always evaluated at least once.
        on_step: receives the completed steps and the total after each step.
        notice: receives user-facing messages.

    Raises:
        InputError: `max_length` exceeds that of the model, or `folder` cannot be written.
        BrokenCheckpointError: `folder` belongs to a run with other settings or data.
        RuntimeError: a gradient or an output is not finite.
    """
    check_length(training.model, training.settings)
    updater = _create_updater(training)
    state = FineTuneState(
        folder,
        identity=training.identity(),
        metric=training.settings.metric,
        planned=len(training.evaluation_steps),
        tokenizer_json=training.features.tokenizer_json,
        workers=training.workers,
        notice=notice,
    )
    try:
        evaluations = EvaluationHook(training, state, updater, report, on_step, max_seconds, clock)
        return state.finish(training.model, _train(training, updater, evaluations))
    finally:
        state.close()
        training.model.eval()


def _create_updater(training: ClassifierTraining) -> Updater:
    model, settings = training.model.to(training.device).train(), training.settings
    total = total_steps(len(training.features.train), settings)
    return Updater(
        model,
        adamw(model, settings),
        partial(learning_rate_factor, total_steps=total, settings=settings),
        max_grad_norm=settings.max_grad_norm,
        uses_fp16=training.dtype == torch.float16,
        on_nonfinite="fail",
        keeps_gradients=training.workers.size > 1,
    )


def _train(training: ClassifierTraining, updater: Updater, evaluations: "EvaluationHook") -> str:
    """Train from the last checkpoint, and return the reason why training ended."""
    settings, workers = training.settings, training.workers
    assert (training.teacher_outputs is None) == (training.distillation is None)
    total = total_steps(len(training.features.train), settings)
    module = workers.wrap(ClassifierLoss(training.model, training.dtype, training.distillation), training.device)
    start = evaluations.resume()
    if end_reason := evaluations.state.end_reason:
        return end_reason
    batches = step_batches(
        training.features, settings, training.seed, workers, start=start, teacher_outputs=training.teacher_outputs
    )
    objective = FineTuningObjective(module, training.seed, workers, training.device)
    stop = train(objective, batches, updater, workers, [evaluations], start=start, total=total)
    assert stop is not None  # the hook stops training at the last step at the latest
    return stop.reason


@dataclass
class EvaluationHook(Hook):
    """Evaluates the model, and ends training: when complete, when stopped, or when patience or time is exhausted.

    Attributes:
        report: receives each evaluation; returns False to stop.
        on_step: receives the completed steps and the total after each step.
    """

    training: ClassifierTraining
    state: FineTuneState
    updater: Updater
    report: Callable[[Evaluation], bool]
    on_step: Callable[[int, int], None]
    max_seconds: float | None
    clock: Callable[[], float]
    _started_at: float = 0.0
    _loss_sum: float = 0.0
    _rows_seen: int = 0

    phase = "evaluation"

    def __post_init__(self) -> None:
        self._evaluation_steps = frozenset(self.training.evaluation_steps)

    def resume(self) -> int:
        """Restore the last checkpoint, and return its step. Training time continues from that of its evaluation."""
        now = self.clock()
        start = self.state.resume(self.training.model, self.updater)
        self._started_at = now - (self.state.evaluations[-1].seconds if self.state.evaluations else 0.0)
        return start

    def after_step(self, step: Step) -> Stop | None:
        """Evaluate if this step is due. All workers make the same decision."""
        self._loss_sum += step.terms["row_losses"]
        self._rows_seen += step.size
        self.on_step(step.done, step.total)
        is_out_of_time = self.max_seconds is not None and self.training.workers.any(self._seconds() > self.max_seconds)
        is_due = step.done in self._evaluation_steps or (is_out_of_time and not self.state.evaluations)
        if is_due and (reason := self._evaluate(step)):
            return Stop(reason)
        return Stop("time") if is_out_of_time else None

    def _evaluate(self, step: Step) -> str | None:
        """Return the reason why training ends, or write a checkpoint."""
        state, training = self.state, self.training
        per_epoch = steps_per_epoch(len(training.features.train), training.settings)
        scores, train_loss = training.dev_scores(), self._train_loss()
        number, epoch = len(state.evaluations) + 1, step.done / per_epoch
        evaluation = Evaluation(number, step.done, epoch, scores, train_loss, self._seconds())
        state.add(evaluation, training.model)
        is_stopped = training.workers.any(not self.report(evaluation))
        if step.is_last:
            return "complete"
        if is_stopped:
            return "stopped"
        patience = training.settings.patience
        if patience is not None and number - state.best.number >= patience:
            return "patience"
        epochs, steps = divmod(step.done, per_epoch)
        state.save(training.model, self.updater, PlanState(epochs, steps * training.settings.batch_size))
        return None

    def _train_loss(self) -> float:
        """Return the mean loss over the rows since the last evaluation."""
        total, rows = self.training.workers.sum_numbers([self._loss_sum])[0], self._rows_seen
        self._loss_sum, self._rows_seen = 0.0, 0
        return total / max(1, rows)

    def _seconds(self) -> float:
        return self.clock() - self._started_at


def check_length(model: Any, settings: TaskConfig) -> None:
    """Check that a model can process `settings.max_length` tokens.

    Raises:
        InputError: it is limited to fewer tokens.
    """
    positions = model.config.max_position_embeddings
    if padded_width(settings.max_length) > positions:
        limit = positions // WIDTH_MULTIPLE * WIDTH_MULTIPLE
        raise InputError(
            f"max_length: {settings.max_length} exceeds the model's limit of {positions} tokens; set {limit} or less"
        )
