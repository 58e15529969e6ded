"""What a trial does: fine-tunes with the values that it tries, and reports each evaluation to Ray Tune."""

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
from distilray.finetuning.progress import Evaluation, EvaluationHistory
from distilray.finetuning.tasks import TASKS
from distilray.models.precision import compute_dtype
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
    read_journal,
    read_record,
    write_journal,
    write_record,
)

# A trial that is to stop ends its writing before its process goes on with the next.
_THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
# A trial looks at its time between steps. One that hangs is ended after this much more than its time.
_HANG_FACTOR, _HANG_S = 2.0, 300.0
_REASON_LETTERS = 200
_ENDED: Mapping[str, Status] = {"complete": "complete", "patience": "complete", "stopped": "stopped", "time": "time"}


def fine_tune_trial(config: Mapping[str, Any], objective: TrialContext) -> None:
    """A trial from its start, or from where it was cut off, to its end.

    One that has a record repeats what it reported and trains nothing; one that was cut off goes on where it was.

    Raises:
        RuntimeError: it failed, now or in an earlier run.
        SystemExit: Ray Tune wants it to stop.
    """
    os.environ.setdefault(*_THREAD_TIMEOUT)
    sample = TrialPoint.of(config)
    folder = sample.folder(objective.trials_folder, objective.seed)
    reports = _Reports(objective.settings.metric)
    record = _known_record(sample, objective)
    if record is None:
        record = _train(sample, objective, folder, reports)
    else:
        reports.repeat(record.evaluations)
    if record.status == "failed":
        raise RuntimeError(record.reason)
    if reports.is_stopped:
        sys.exit(0)  # as Ray Tune had it, when the report came back


@dataclass
class _Reports:
    """Tells Ray Tune each evaluation once, and remembers whether the trial is to stop."""

    metric: str
    best: float = float("-inf")
    told: int = 0
    is_stopped: bool = False

    def __call__(self, evaluation: Evaluation) -> bool:
        """Whether the trial goes on."""
        if evaluation.number > self.told and not self.is_stopped:
            self.told = evaluation.number
            self.best = max(self.best, evaluation.scores[self.metric])
            try:
                tune.report({EVALUATION: evaluation.number, BEST: self.best})
            except SystemExit:  # Ray Tune's way to stop a function; the training ends in order first
                self.is_stopped = True
        return not self.is_stopped

    def repeat(self, evaluations: Sequence[Evaluation]) -> None:
        """Tells the evaluations of an earlier run."""
        for evaluation in evaluations:
            self(evaluation)


def _known_record(sample: TrialPoint, objective: TrialContext) -> TrialRecord | None:
    """The record of the trial, or of one with the same values that has ended: it would become the same."""
    own = sample.folder(objective.trials_folder, objective.seed)
    first = TrialPoint(sample.number, sample.values).folder(objective.trials_folder, objective.seed)
    found = read_record(own)
    if found is None and own != first and (same := read_record(first)) is not None:
        found = dataclasses.replace(same, number=sample.number)
        write_record(own, found)
    return found


def _train(sample: TrialPoint, objective: TrialContext, folder: str, reports: _Reports) -> TrialRecord:
    """Fine-tunes, and leaves the record of it."""
    settings = with_values(objective.settings, sample.values)
    found = {each.number: each for each in read_journal(folder)}
    end = _End(sample, objective, folder, found)
    reports.repeat(list(found.values()))  # what was decided on them may not have been saved
    if reports.is_stopped:
        return end("stopped")

    def report(evaluation: Evaluation) -> bool:
        found[evaluation.number] = evaluation
        write_journal(folder, list(found.values()))  # first: a trial that is stopped may have no time after it
        return reports(evaluation)

    try:
        with _device(objective.trial) as device, _watchdog(objective.trial, end):
            ended = _fine_tune(objective, settings, folder, device, report)
    except Exception as error:
        # A search that is over writes the record of what still runs, and takes away what it trains with.
        return read_record(folder) or end("failed", _reason(error))
    return end(_ENDED[ended.ended])


@dataclass
class _End:
    """Writes the record of a trial."""

    sample: TrialPoint
    objective: TrialContext
    folder: str
    found: Mapping[int, Evaluation]
    started: float = field(default_factory=time.monotonic)

    def __call__(self, status: Status, reason: str = "") -> TrialRecord:
        seconds = max([time.monotonic() - self.started, *(each.seconds for each in self.found.values())])
        reason = reason or {"stopped": self.objective.stop_reason, "time": "trial.max_minutes were over"}.get(
            status, ""
        )
        sample, seed = self.sample, self.objective.seed
        record = TrialRecord(
            sample.number, dict(sample.values), seed, status, reason, list(self.found.values()), seconds
        )
        write_record(self.folder, record)
        return record


def _fine_tune(
    objective: TrialContext,
    settings: TaskConfig,
    folder: str,
    device: torch.device,
    report: Callable[[Evaluation], bool],
) -> EvaluationHistory:
    features: TaskFeatures = ray.get(objective.features[settings.max_length])
    model_dir, minutes = localize(objective.model_dir), objective.trial.max_minutes
    model = load_classifier(model_dir, TASKS[objective.task], seed=objective.seed, dropout=settings.dropout)
    dtype = compute_dtype(objective.precision, device)
    return fine_tune(
        ClassifierTraining(model, features, settings, objective.seed, device, dtype),
        folder=storage.join(folder, TRAINING_FOLDER),
        report=report,
        max_seconds=None if minutes is None else 60 * minutes,
    )


@contextmanager
def _device(trial: TrialConfig) -> Iterator[torch.device]:
    """The device of a trial, of whose memory it has its share and no more; all of it is free afterwards."""
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
def _watchdog(trial: TrialConfig, end: Callable[[Status, str], object]) -> Iterator[None]:
    """Ends the process of a trial that hangs, long after its time; Ray Tune counts it as failed."""
    if trial.max_minutes is None:
        yield
        return

    def give_up() -> None:
        end("failed", "it hung: no end long after trial.max_minutes")
        os._exit(1)

    timer = threading.Timer(_HANG_FACTOR * 60 * trial.max_minutes + _HANG_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _reason(error: Exception) -> str:
    """In one line."""
    told = " ".join(str(error).split())[:_REASON_LETTERS]
    return told if isinstance(error, InputError) else f"{type(error).__name__}: {told}"
