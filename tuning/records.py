"""Trials of a search: their identity, folders and records.

A trial is identified by its values and the seed, so that a resumed search recognizes it. While it runs, its folder
contains its evaluations and checkpoints. Once it has ended, the folder contains `record.json`, and the trial is never
run again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyarrow import fs

from distilray.config.glue import TaskConfig, TaskName, TrialConfig
from distilray.finetuning.fine_tune_state import Evaluation
from distilray.runtime import storage

RECORD_FILE = "record.json"
EVALUATIONS_FILE = "evaluations.json"
TRAINING_FOLDER = "training"

EVALUATION, BEST = "evaluation", "best"  # keys of the results that a trial reports

Status = Literal["complete", "stopped", "time", "failed"]
STATUSES: Sequence[Status] = ("complete", "stopped", "time", "failed")


@dataclass(frozen=True)
class TrialContext:
    """Configuration and data shared by all trials of a task.

    Attributes:
        settings: settings of the task, which the values of a trial override.
        trials_folder: path or URI of the folder with a subfolder for each trial.
        features: object references to the tokenized task, by `max_length`.
        stop_reason: reason to record for trials that Ray Tune stops.
    """

    task: TaskName
    settings: TaskConfig
    model_dir: str
    trials_folder: str
    seed: int
    precision: str
    deterministic: bool
    trial: TrialConfig
    features: Mapping[int, Any]
    stop_reason: str


@dataclass(frozen=True)
class TrialPoint:
    """Point of the search space that Ray Tune passes to a trial.

    Attributes:
        number: number of the trial among those of its task, from 0.
        values: settings that override those of the recipe.
        repeat: number of earlier trials with the same values.
    """

    number: int
    values: Mapping[str, Any]
    repeat: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "TrialPoint":
        """Return the point from the `config` of a Ray Tune trial."""
        return cls(**config["sample"])

    @property
    def identity(self) -> str:
        """Text that identifies the trial among those of its task."""
        return json.dumps([dict(self.values), *([self.repeat] if self.repeat else [])], sort_keys=True)

    def folder(self, trials_folder: str, seed: int) -> str:
        """Return the folder of the trial."""
        return storage.join(trials_folder, hashlib.sha256(f"{self.identity} {seed}".encode()).hexdigest()[:16])


@dataclass(frozen=True)
class TrialRecord:
    """Result of a trial.

    Attributes:
        status: complete (all epochs, or no better score for `patience` evaluations), stopped (by ASHA or because the
            search ended), time (the time limit of the trial was reached) or failed.
        reason: one line; empty if the status is complete.
        seconds: duration of the training.
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
        content = json.loads(data)
        return cls(**{**content, "evaluations": [Evaluation(**evaluation) for evaluation in content["evaluations"]]})

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def epochs(self) -> float:
        """Number of trained epochs."""
        return self.evaluations[-1].epoch if self.evaluations else 0.0

    def best(self, metric: str) -> Evaluation | None:
        """Return the evaluation with the highest score, the first one in case of a tie, or None if there is none."""
        return max(self.evaluations, key=lambda evaluation: evaluation.scores[metric], default=None)


def read_record(folder: str) -> TrialRecord | None:
    """Return the record in the folder of a trial, or None if the trial has not ended."""
    uri = storage.join(folder, RECORD_FILE)
    return TrialRecord.from_json(storage.read_bytes(uri)) if storage.exists(uri) else None


def read_evaluations(folder: str) -> list[Evaluation]:
    """Return the evaluations of a trial, which may still be running."""
    uri = storage.join(folder, EVALUATIONS_FILE)
    return [Evaluation(**entry) for entry in json.loads(storage.read_bytes(uri))] if storage.exists(uri) else []


def write_evaluations(folder: str, evaluations: Sequence[Evaluation]) -> None:
    data = json.dumps([asdict(evaluation) for evaluation in evaluations])
    storage.write_bytes(storage.join(folder, EVALUATIONS_FILE), data.encode())


def write_record(folder: str, record: TrialRecord) -> None:
    """Write the record of a trial and remove its checkpoints, which are large."""
    storage.write_bytes(storage.join(folder, RECORD_FILE), record.to_json())
    storage.remove_folder(storage.join(folder, TRAINING_FOLDER))


def read_records(trials_folder: str, known: Mapping[str, TrialRecord] | None = None) -> dict[str, TrialRecord]:
    """Return the records of all ended trials of a task, by folder. The `known` records are not read again."""
    filesystem, path = storage.filesystem(trials_folder)
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=False, allow_not_found=True))
    records = dict(known or {})
    for info in infos:
        folder = storage.join(trials_folder, info.base_name)
        if folder not in records and (record := read_record(folder)) is not None:
            records[folder] = record
    return records
