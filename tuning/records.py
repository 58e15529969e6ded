"""What is known of a trial: its folder, and the record that stays of it.

A trial is known by what it tries and by the seed, so that it is the same in every run of the search. Its folder holds
its evaluations and its training while it goes on, and `record.json` when it has ended; then it is never trained again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyarrow import fs

from distilray.config.glue import TaskConfig, TaskName, TrialConfig
from distilray.finetuning.progress import Evaluation
from distilray.runtime import storage

RECORD_FILE = "record.json"
JOURNAL_FILE = "evaluations.json"
TRAINING_FOLDER = "training"

EVALUATION, BEST = "evaluation", "best"  # keys of what a trial reports

Status = Literal["complete", "stopped", "time", "failed"]
STATUSES: Sequence[Status] = ("complete", "stopped", "time", "failed")


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a task share.

    Attributes:
        settings: of the task, where a trial says nothing else.
        trials_folder: holds a folder for each trial; path or URI.
        features: references to the tokenised task, by the `max_length` that it is cut at.
        stop_reason: why Ray Tune may stop a trial.
    """

    task: TaskName
    settings: TaskConfig
    model_dir: str
    trials_folder: str
    seed: int
    precision: str
    trial: TrialConfig
    features: Mapping[int, Any]
    stop_reason: str


@dataclass(frozen=True)
class TrialPoint:
    """What one trial tries, as Ray Tune hands it over.

    Attributes:
        number: order of the trials of a task, from 0.
        values: settings in place of those of the recipe.
        repeat: how often the searcher had named the same values before.
    """

    number: int
    values: Mapping[str, Any]
    repeat: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "TrialPoint":
        """The sample in the configuration of a Tune trial."""
        return cls(**config["sample"])

    @property
    def identity(self) -> str:
        """What tells it from every other trial of its task."""
        return json.dumps([dict(self.values), *([self.repeat] if self.repeat else [])], sort_keys=True)

    def folder(self, trials_folder: str, seed: int) -> str:
        """Where it lies among the trials of its task."""
        return storage.join(trials_folder, hashlib.sha256(f"{self.identity} {seed}".encode()).hexdigest()[:16])


@dataclass(frozen=True)
class TrialRecord:
    """How a trial went.

    Attributes:
        status: complete (all epochs, or no better score for `patience` evaluations), stopped (by ASHA, or by the end
            of the search), time (its own time was over), or failed.
        reason: of a trial that did not go to its end, one line.
        seconds: of training.
    """

    number: int
    values: Mapping[str, Any]
    seed: int
    status: Status
    reason: str
    evaluations: Sequence[Evaluation]
    seconds: float

    @classmethod
    def from_json(cls, data: bytes) -> "TrialRecord":
        """The record that `to_json` gave."""
        found = json.loads(data)
        return cls(**{**found, "evaluations": [Evaluation(**evaluation) for evaluation in found["evaluations"]]})

    def to_json(self) -> bytes:
        """As a file."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def epochs(self) -> float:
        """Epochs that were trained."""
        return self.evaluations[-1].epoch if self.evaluations else 0.0

    def best(self, metric: str) -> Evaluation | None:
        """The evaluation with the highest score, the first of several."""
        return max(self.evaluations, key=lambda evaluation: evaluation.scores[metric], default=None)


def read_record(folder: str) -> TrialRecord | None:
    """The record in a trial's folder, None while there is none."""
    uri = storage.join(folder, RECORD_FILE)
    return TrialRecord.from_json(storage.read_bytes(uri)) if storage.exists(uri) else None


def read_journal(folder: str) -> list[Evaluation]:
    """The evaluations of a trial that has not ended; none before the first."""
    uri = storage.join(folder, JOURNAL_FILE)
    return [Evaluation(**each) for each in json.loads(storage.read_bytes(uri))] if storage.exists(uri) else []


def write_journal(folder: str, evaluations: Sequence[Evaluation]) -> None:
    """Writes the evaluations of a trial that goes on."""
    data = json.dumps([asdict(evaluation) for evaluation in evaluations])
    storage.write_bytes(storage.join(folder, JOURNAL_FILE), data.encode())


def write_record(folder: str, record: TrialRecord) -> None:
    """Writes the record of a trial, and removes its training: weights are large."""
    storage.write_bytes(storage.join(folder, RECORD_FILE), record.to_json())
    storage.remove_folder(storage.join(folder, TRAINING_FOLDER))


def read_records(trials_folder: str, known: Mapping[str, TrialRecord] | None = None) -> dict[str, TrialRecord]:
    """The records of the trials of a task that have ended, by their folders; `known` ones are not read again."""
    found, path = storage.filesystem(trials_folder)
    infos = found.get_file_info(fs.FileSelector(path, recursive=False, allow_not_found=True))
    records = dict(known or {})
    for info in infos:
        folder = storage.join(trials_folder, info.base_name)
        if folder not in records and (record := read_record(folder)) is not None:
            records[folder] = record
    return records
