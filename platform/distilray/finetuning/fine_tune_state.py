"""State of a fine-tuning run: evaluations, the weights of the best one, and checkpoints."""

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
from distilray.training.checkpoint import (
    CHECKPOINTS_FOLDER,
    BrokenCheckpointError,
    CheckpointStore,
    Snapshot,
    TrainingState,
)
from distilray.training.optimizer import Updater
from distilray.training.process_group import Workers

EVALUATIONS_FILE = "evaluations.json"


@dataclass(frozen=True)
class Evaluation:
    """Scores on the dev sets.

    Attributes:
        number: counts evaluations from 1.
        step: completed optimizer steps.
        epoch: completed epochs.
        scores: metrics of the task, and their mean as `score`.
        train_loss: mean over the training rows since the previous evaluation.
        seconds: training time since the start, without the time that the run was interrupted.
    """

    number: int
    step: int
    epoch: float
    scores: Mapping[str, float]
    train_loss: float
    seconds: float


@dataclass(frozen=True)
class EvaluationHistory:
    """Evaluations of a finished fine-tuning run.

    Attributes:
        best: evaluation whose weights are kept; the earliest of equal ones.
        planned: number of evaluations without early stopping.
        end_reason: `complete`; `patience` (no better score for too long); `stopped` (requested by `report`);
            `time` (limit reached).
    """

    best: Evaluation
    evaluations: list[Evaluation]
    planned: int
    end_reason: str


class FineTuneState:
    """Evaluations and best weights of a fine-tuning run. With a folder, the run can be resumed.

    During training the folder contains `evaluations.json` and checkpoints; afterwards `evaluations.json` and `model/`.
    All workers must make the same calls; only the first one writes.

    Args:
        folder: path or URI; None stores nothing.
        identity: hash of everything that determines the result. The folder of another identity is refused.
        metric: score that determines the best evaluation.
        planned: number of evaluations without early stopping.
        notice: receives user-facing messages.
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
        self.end_reason: str | None = None
        self._best_weights: Mapping[str, Tensor] = {}
        self._folder, self._identity, self._metric, self._planned = folder, identity, metric, planned
        self._tokenizer_json, self._workers, self._notice = tokenizer_json, workers, notice
        self._store = None if folder is None else self._open_checkpoints(folder)

    @property
    def best(self) -> Evaluation:
        """Evaluation with the highest score; the earliest of equal ones."""
        return max(self.evaluations, key=lambda one: (one.scores[self._metric], -one.step))

    def resume(self, model: Any, updater: Updater) -> int:
        """Restore the state from the folder on all workers, and return the number of completed steps.

        Sets `end_reason` if the run is already finished; then only `finish` remains to be called.

        Raises:
            BrokenCheckpointError: the folder belongs to a run with another identity.
        """
        if self._folder is None or self._store is None:
            return 0
        stored = self._read_state(self._folder, self._store) if self._workers.rank == 0 else {}
        shared = json.loads(self._workers.broadcast(json.dumps(stored)))
        self.evaluations = [Evaluation(**one) for one in shared["evaluations"]]
        self.end_reason = shared["ended"]
        if self.end_reason:
            self._best_weights = load(storage.read_bytes(storage.join(self._folder, MODEL_FOLDER, WEIGHTS_FILE)))
            return self.evaluations[-1].step
        if not self.evaluations:
            if self._workers.rank == 0:  # an unusable checkpoint must not count as the newest one later
                storage.remove_folder(storage.join(self._folder, CHECKPOINTS_FOLDER))
            return 0
        step = self.evaluations[-1].step
        self._store.restore(self.best.step, model, updater.optimizer)
        self._best_weights = _copy_weights(model)
        self._store.restore(step, model, updater.optimizer)
        updater.load_scaler_state(self._store.state(step).scaler)
        return step

    def add(self, evaluation: Evaluation, model: Any) -> None:
        """Add an evaluation of the current weights."""
        self.evaluations.append(evaluation)
        if self.best is evaluation:
            self._best_weights = _copy_weights(model)

    def save(self, model: Any, updater: Updater, plan: PlanState) -> None:
        """Start to write the checkpoint of the last evaluation.

        Raises:
            InputError: this or the previous checkpoint cannot be written, for example because the disk is full.
        """
        if self._store and self._workers.rank == 0:
            self._write_evaluations()
            last = self.evaluations[-1]
            state = TrainingState(last.step, plan, self._identity, scaler=updater.scaler_state(), metrics=last.scores)
            self._store.save(Snapshot.of(model, updater.optimizer, state, self._tokenizer_json))

    def finish(self, model: Any, end_reason: str) -> EvaluationHistory:
        """Restore the best weights, and replace the checkpoints in the folder by the model.

        Raises:
            InputError: the model cannot be written, for example because the disk is full.
        """
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self._best_weights[name])
        if self._folder and self._workers.rank == 0:
            self.close()
            if not self.end_reason:
                save_classifier(model, storage.join(self._folder, MODEL_FOLDER), self._tokenizer_json)
                self.end_reason = end_reason
                self._write_evaluations()
            storage.remove_folder(storage.join(self._folder, CHECKPOINTS_FOLDER))
        return EvaluationHistory(self.best, self.evaluations, self._planned, end_reason)

    def close(self) -> None:
        """Wait until all checkpoints are written."""
        if self._store:
            self._store.wait()

    def _open_checkpoints(self, folder: str) -> CheckpointStore:
        return CheckpointStore(
            storage.join(folder, CHECKPOINTS_FOLDER),
            keep=1,
            config_hash=self._identity,
            notice=self._notice,
            cost=lambda metrics: -metrics[self._metric],
        )

    def _write_evaluations(self) -> None:
        assert self._folder is not None
        values = {"identity": self._identity, "planned": self._planned, "ended": self.end_reason}
        record = {**values, "evaluations": [asdict(one) for one in self.evaluations]}
        storage.write_bytes(storage.join(self._folder, EVALUATIONS_FILE), json.dumps(record, indent=1).encode())

    def _read_state(self, folder: str, store: CheckpointStore) -> dict[str, Any]:
        """Return why the run ended (None if it did not), and its evaluations up to the newest checkpoint."""
        empty: dict[str, Any] = {"ended": None, "evaluations": []}
        file = storage.join(folder, EVALUATIONS_FILE)
        if not storage.exists(file):
            return empty
        record = json.loads(storage.read_bytes(file))
        if record["identity"] != self._identity:
            raise BrokenCheckpointError(f"{file}: belongs to a fine-tuning run with other settings or data")
        if record["ended"]:
            return {name: record[name] for name in empty}
        newest = store.newest()
        evaluations = [Evaluation(**one) for one in record["evaluations"]]
        self.evaluations = [one for one in evaluations if newest and one.step <= newest.step]
        if self.evaluations and not store.is_intact(self.best.step):
            self._notice(f"CHECKPOINT {store.path(self.best.step)} IS BROKEN: starting over")
            return empty
        return {"ended": None, "evaluations": [asdict(one) for one in self.evaluations]}


def _copy_weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in model_tensors(model).items()}
