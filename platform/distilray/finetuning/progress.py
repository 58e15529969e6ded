"""State of a fine-tuning: evaluations, the weights of the best one, and the checkpoints it resumes from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from distilray.finetuning.classifier import save_classifier
from distilray.models.masked_lm import model_tensors
from distilray.models.sources import MODEL_FOLDER, WEIGHTS_FILE
from distilray.pretraining_data.sample_plan import PlanState
from distilray.runtime import storage
from distilray.training.checkpoint import BrokenCheckpointError, CheckpointStore, Snapshot, TrainingState
from distilray.training.process_group import Workers

EVALUATIONS_FILE = "evaluations.json"
CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True)
class Evaluation:
    """Scores on the dev sets.

    Attributes:
        number: from 1.
        step: finished optimiser steps.
        epoch: the same in epochs.
        scores: metrics of the task, and their mean as `score`.
        train_loss: mean over the rows that were trained on since the evaluation before.
        seconds: since the start, without the time between an interruption and going on.
    """

    number: int
    step: int
    epoch: float
    scores: Mapping[str, float]
    train_loss: float
    seconds: float


@dataclass(frozen=True)
class EvaluationHistory:
    """Evaluations of a fine-tuning that has ended.

    Attributes:
        best: the evaluation whose weights are kept; the earlier one of equals.
        planned: evaluations if nothing ends it early.
        ended: `complete`; `patience`, without a better score for too long; `stopped`, by who was reported to; `time`.
    """

    best: Evaluation
    evaluations: list[Evaluation]
    planned: int
    ended: str


class FineTuneState:
    """The evaluations of a fine-tuning and its best weights; with a folder, what is needed to go on.

    The folder has `evaluations.json` and checkpoints while it is trained, and `evaluations.json` and `model/` at the
    end. All workers make the same calls; the first writes.

    Args:
        folder: path or URI; None keeps nothing.
        identity: of all that decides the result; a folder of another one is refused.
        metric: the score that the best evaluation has the highest of.
        planned: evaluations if nothing ends it early.
        notice: takes a line that people should see.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        identity: str,
        metric: str,
        planned: int,
        tokenizer_json: str,
        workers: Workers,
        notice: Callable[[str], None],
    ) -> None:
        self.evaluations: list[Evaluation] = []
        self.ended: str | None = None
        self._best_weights: Mapping[str, Tensor] = {}
        self._folder, self._identity, self._metric, self._planned = folder, identity, metric, planned
        self._tokenizer_json, self._workers, self._notice = tokenizer_json, workers, notice
        self._store = None if folder is None else self._checkpoints(folder)

    @property
    def best(self) -> Evaluation:
        """The evaluation with the highest score; the earlier one of equals."""
        return max(self.evaluations, key=lambda one: (one.scores[self._metric], -one.step))

    def resume(self, model: Any, optimizer: torch.optim.Optimizer) -> int:
        """Restore the state that the folder holds, the same on every worker, and return the finished steps.

        `ended` is set when nothing is left to do; `finish` then gives the result.

        Raises:
            BrokenCheckpointError: the folder is that of another fine-tuning.
        """
        if self._folder is None or self._store is None:
            return 0
        stored = self._stored(self._folder, self._store) if self._workers.rank == 0 else {}
        shared = json.loads(self._workers.broadcast(json.dumps(stored)))
        self.evaluations = [Evaluation(**one) for one in shared["evaluations"]]
        self.ended = shared["ended"]
        if self.ended:
            self._best_weights = load(storage.read_bytes(storage.join(self._folder, MODEL_FOLDER, WEIGHTS_FILE)))
            return self.evaluations[-1].step
        if not self.evaluations:
            if self._workers.rank == 0:  # what cannot be used must not count as newest later
                storage.remove_folder(storage.join(self._folder, CHECKPOINTS_FOLDER))
            return 0
        self._store.restore(self.best.step, model, optimizer)
        self._best_weights = _copied(model)
        self._store.restore(self.evaluations[-1].step, model, optimizer)
        return self.evaluations[-1].step

    def add(self, evaluation: Evaluation, model: Any) -> None:
        """Add an evaluation of the model in its present state."""
        self.evaluations.append(evaluation)
        if self.best is evaluation:
            self._best_weights = _copied(model)

    def save(self, model: Any, optimizer: torch.optim.Optimizer, plan: PlanState) -> None:
        """Start to write a checkpoint of the last evaluation.

        Raises:
            InputError: it, or the one before, cannot be written; the disk may be full.
        """
        if self._store and self._workers.rank == 0:
            self._write_evaluations()
            last = self.evaluations[-1]
            state = TrainingState(last.step, plan, self._identity, metrics=last.scores)
            self._store.save(Snapshot.of(model, optimizer, state, self._tokenizer_json))

    def finish(self, model: Any, ended: str) -> EvaluationHistory:
        """Restore the best weights of the model, and write it into the folder in place of the checkpoints.

        Raises:
            InputError: it cannot be written; the disk may be full.
        """
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self._best_weights[name])
        if self._folder and self._workers.rank == 0:
            self.close()
            if not self.ended:
                save_classifier(model, storage.join(self._folder, MODEL_FOLDER), self._tokenizer_json)
                self.ended = ended
                self._write_evaluations()
            storage.remove_folder(storage.join(self._folder, CHECKPOINTS_FOLDER))
        return EvaluationHistory(self.best, self.evaluations, self._planned, ended)

    def close(self) -> None:
        """Wait until nothing is being written."""
        if self._store:
            self._store.wait()

    def _checkpoints(self, folder: str) -> CheckpointStore:
        return CheckpointStore(
            storage.join(folder, CHECKPOINTS_FOLDER),
            keep=1,
            config_hash=self._identity,
            notice=self._notice,
            cost=lambda metrics: -metrics[self._metric],
        )

    def _write_evaluations(self) -> None:
        assert self._folder is not None
        values = {"identity": self._identity, "planned": self._planned, "ended": self.ended}
        record = {**values, "evaluations": [asdict(one) for one in self.evaluations]}
        storage.write_bytes(storage.join(self._folder, EVALUATIONS_FILE), json.dumps(record, indent=1).encode())

    def _stored(self, folder: str, store: CheckpointStore) -> dict[str, Any]:
        """Return the stored state: how the run ended, and the evaluations up to its newest checkpoint."""
        nothing: dict[str, Any] = {"ended": None, "evaluations": []}
        record = _record(folder)
        if record is None:
            return nothing
        if record["identity"] != self._identity:
            file = storage.join(folder, EVALUATIONS_FILE)
            raise BrokenCheckpointError(f"{file}: belongs to a fine-tuning with other settings or data")
        if record["ended"]:
            return {name: record[name] for name in nothing}
        newest = store.newest()
        self.evaluations = [one for one in read_evaluations(folder) if newest and one.step <= newest.step]
        if self.evaluations and not store.is_intact(self.best.step):
            self._notice(f"CHECKPOINT {store.path(self.best.step)} IS BROKEN: beginning anew")
            return nothing
        return {"ended": None, "evaluations": [asdict(one) for one in self.evaluations]}


def read_evaluations(folder: str) -> list[Evaluation]:
    """The evaluations that the folder of a fine-tuning knows, those that would be repeated among them."""
    record = _record(folder)
    return [] if record is None else [Evaluation(**one) for one in record["evaluations"]]


def _record(folder: str) -> Mapping[str, Any] | None:
    file = storage.join(folder, EVALUATIONS_FILE)
    if not storage.exists(file):
        return None
    record: Mapping[str, Any] = json.loads(storage.read_bytes(file))
    return record


def _copied(model: Any) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in model_tensors(model).items()}
