"""Trial of a search: a fine-tuning run that reports each evaluation to Ray Tune."""

import dataclasses
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray import tune

from distilray.config.glue import TaskConfig, TrialConfig, with_values
from distilray.errors import InputError
from distilray.finetuning.classifier import load_classifier
from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.finetuning.features import TaskFeatures
from distilray.finetuning.fine_tune_state import Evaluation, EvaluationHistory
from distilray.finetuning.tasks import TASKS
from distilray.models.precision import compute_dtype, configure_arithmetic
from distilray.models.processor import configure_cpu
from distilray.models.sources import localize
from distilray.runtime import storage
from tuning.records import (
    BEST,
    EVALUATION,
    TRAINING_FOLDER,
    Status,
    TrialContext,
    TrialPoint,
    TrialRecord,
    read_evaluations,
    read_record,
    write_evaluations,
    write_record,
)

# How long a stopped trial may take to finish writing before its process starts the next trial.
_THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
# A trial checks its time limit between steps. If it hangs, it is killed after limit * _HANG_FACTOR + _HANG_S.
_HANG_FACTOR, _HANG_S = 2.0, 300.0
_MAX_REASON = 200  # characters
_STATUS: Mapping[str, Status] = {"complete": "complete", "patience": "complete", "stopped": "stopped", "time": "time"}


def fine_tune_trial(config: Mapping[str, Any], context: TrialContext) -> None:
    """Run a trial, or resume it from its last checkpoint.

    A trial that already has a record only repeats its reports.

    Raises:
        RuntimeError: the trial failed, now or in an earlier run.
        SystemExit: Ray Tune stopped the trial.
    """
    os.environ.setdefault(*_THREAD_TIMEOUT)
    point = TrialPoint.of(config)
    folder = point.folder(context.trials_folder, context.seed)
    reporter = _Reporter(context.settings.metric)
    record = _existing_record(point, context)
    if record is None:
        record = _train(point, context, folder, reporter)
    else:
        reporter.repeat(record.evaluations)
    if record.status == "failed":
        raise RuntimeError(record.reason)
    if reporter.is_stopped:
        sys.exit(0)  # expected by Ray Tune after it stopped a trial


@dataclass
class _Reporter:
    """Reports each evaluation to Ray Tune once, and remembers whether the trial was stopped."""

    metric: str
    best: float = float("-inf")
    reported: int = 0
    is_stopped: bool = False

    def __call__(self, evaluation: Evaluation) -> bool:
        """Report an evaluation; return whether the trial continues."""
        if evaluation.number > self.reported and not self.is_stopped:
            self.reported = evaluation.number
            self.best = max(self.best, evaluation.scores[self.metric])
            try:
                tune.report({EVALUATION: evaluation.number, BEST: self.best})
            except SystemExit:  # raised by Ray Tune to stop the trial; training still ends cleanly
                self.is_stopped = True
        return not self.is_stopped

    def repeat(self, evaluations: Sequence[Evaluation]) -> None:
        """Report the evaluations of an earlier run."""
        for evaluation in evaluations:
            self(evaluation)


def _existing_record(point: TrialPoint, context: TrialContext) -> TrialRecord | None:
    """Return the record of the trial or a copy of that of an earlier trial with the same values, if there is one."""
    folder = point.folder(context.trials_folder, context.seed)
    first_folder = TrialPoint(point.number, point.values).folder(context.trials_folder, context.seed)
    record = read_record(folder)
    if record is None and folder != first_folder and (first_record := read_record(first_folder)) is not None:
        record = dataclasses.replace(first_record, number=point.number)
        write_record(folder, record)
    return record


def _train(point: TrialPoint, context: TrialContext, folder: str, reporter: _Reporter) -> TrialRecord:
    """Fine-tune, then write and return the record."""
    settings = with_values(context.settings, point.values)
    evaluations = {evaluation.number: evaluation for evaluation in read_evaluations(folder)}
    finish = _RecordWriter(point, context, folder, evaluations)
    reporter.repeat(list(evaluations.values()))  # Ray Tune may not have saved its decisions about them
    if reporter.is_stopped:
        return finish("stopped")

    def report(evaluation: Evaluation) -> bool:
        evaluations[evaluation.number] = evaluation
        write_evaluations(folder, list(evaluations.values()))  # before the report, which may stop the trial
        return reporter(evaluation)

    try:
        with _device(context.trial) as device, _watchdog(context.trial, finish):
            result = _fine_tune(context, settings, folder, device, report)
    except Exception as error:
        # When a search ends, it writes the records of running trials and deletes their checkpoints, so they fail here.
        return read_record(folder) or finish("failed", _describe_error(error))
    return finish(_STATUS[result.end_reason])


@dataclass
class _RecordWriter:
    """Writes and returns the record of a trial when it ends."""

    point: TrialPoint
    context: TrialContext
    folder: str
    evaluations: Mapping[int, Evaluation]
    started: float = field(default_factory=time.monotonic)

    def __call__(self, status: Status, reason: str = "") -> TrialRecord:
        evaluations = list(self.evaluations.values())
        seconds = max([time.monotonic() - self.started, *(evaluation.seconds for evaluation in evaluations)])
        reason = reason or {"stopped": self.context.stop_reason, "time": "trial.max_minutes was reached"}.get(
            status, ""
        )
        point, seed = self.point, self.context.seed
        record = TrialRecord(point.number, dict(point.values), seed, status, reason, evaluations, seconds)
        write_record(self.folder, record)
        return record


def _fine_tune(
    context: TrialContext,
    settings: TaskConfig,
    folder: str,
    device: torch.device,
    report: Callable[[Evaluation], bool],
) -> EvaluationHistory:
    features: TaskFeatures = ray.get(context.features[settings.max_length])
    model_dir, minutes = localize(context.model_dir), context.trial.max_minutes
    model = load_classifier(model_dir, TASKS[context.task], seed=context.seed, dropout=settings.dropout)
    configure_arithmetic(device, deterministic=context.deterministic)
    dtype = compute_dtype(context.precision, device)
    return fine_tune(
        ClassifierTraining(model, features, settings, context.seed, device, dtype),
        folder=storage.join(folder, TRAINING_FOLDER),
        report=report,
        max_seconds=None if minutes is None else 60 * minutes,
    )


@contextmanager
def _device(trial: TrialConfig) -> Iterator[torch.device]:
    """Limit the trial to its CPUs and its share of the GPU memory, yield the device, and free the memory afterwards."""
    configure_cpu(max(1, int(trial.cpus)))
    if not trial.gpus:
        yield torch.device("cpu")
        return
    torch.cuda.set_per_process_memory_fraction(trial.gpus)
    try:
        yield torch.device("cuda")
    finally:
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def _watchdog(trial: TrialConfig, finish: Callable[[Status, str], object]) -> Iterator[None]:
    """Kill the process of a trial that hangs long after its time limit; Ray Tune treats it as failed."""
    if trial.max_minutes is None:
        yield
        return

    def kill() -> None:
        finish("failed", "it hung long after trial.max_minutes")
        os._exit(1)

    timer = threading.Timer(_HANG_FACTOR * 60 * trial.max_minutes + _HANG_S, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _describe_error(error: Exception) -> str:
    text = " ".join(str(error).split())[:_MAX_REASON]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
