"""Checkpoints: a model folder that plain `from_pretrained` loads, the optimiser as safetensors, the rest as JSON.

Nothing random is saved: the examples, the masks and the dropout of a step follow from (seed, step) alone. A checkpoint
is copied out of the model at once and written in the background; it is whole when its `state.json` is there, which
comes last and holds the sha256 of the weights and of the optimiser.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pyarrow import fs
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from distilray.models.masked_lm import SAFETENSORS_METADATA, companion_files, model_tensors
from distilray.models.sources import WEIGHTS_FILE
from distilray.pretraining_data.sample_plan import PlanState
from distilray.runtime import storage

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
_SCHEMA = 2
_NAME = re.compile(r"step-(\d{7,})")


class BrokenCheckpointError(RuntimeError):
    """A checkpoint whose files are not the ones that were saved, or that belongs to another run."""


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds beside weights and moments.

    Attributes:
        step: finished optimiser steps.
        plan: how far in the examples they came.
        config_hash: of the run.
        skipped_steps: steps without an update, all of the run's and those in a row up to now.
        scaler: state of the loss scale, empty where there is none.
        metrics: the newest held-out scores.
    """

    step: int
    plan: PlanState
    config_hash: str
    skipped_steps: tuple[int, int] = (0, 0)
    scaler: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingState":
        """The state that `to_json` gave."""
        plan, skipped = PlanState(**values["plan"]), (values["skipped_steps"][0], values["skipped_steps"][1])
        return cls(values["step"], plan, values["config_hash"], skipped, values["scaler"], values["metrics"])

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Snapshot:
    """A copy of everything that a checkpoint holds, on the host, which training does not change any more."""

    state: TrainingState
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, model: Any, optimizer: torch.optim.Optimizer, state: TrainingState, tokenizer_json: str) -> "Snapshot":
        """Copies model and optimiser."""
        moments = {
            f"{name}/{key}": value
            for name, parameter in model.named_parameters()
            for key, value in optimizer.state[parameter].items()
        }
        copied = [
            {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
            for tensors in (model_tensors(model), moments)
        ]
        return cls(state, copied[0], copied[1], companion_files(model, tokenizer_json))


class CheckpointStore:
    """The checkpoints of a run, in folders `step-0001000` and so on.

    Args:
        folder: path or URI.
        keep: newest checkpoints that are kept; the best one is kept besides.
        notice: takes a line that people should see.
        cost: what the best checkpoint has the lowest of, from its metrics; nan when they do not tell.
    """

    def __init__(
        self,
        folder: str,
        *,
        keep: int,
        config_hash: str,
        notice: Callable[[str], None],
        cost: Callable[[Mapping[str, float]], float] = lambda metrics: metrics.get("loss", math.nan),
    ) -> None:
        self._folder, self._keep, self._config_hash, self._notice = folder, keep, config_hash, notice
        self._cost = cost
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Begins to write a checkpoint in the background, when the one before is written.

        Raises:
            InputError: the one before could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, snapshot)

    @property
    def is_idle(self) -> bool:
        """Whether no checkpoint is being written."""
        return self._writing is None or self._writing.done()

    def wait(self) -> None:
        """Returns when the last checkpoint is written.

        Raises:
            InputError: it could not be written; the disk may be full.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def newest(self) -> TrainingState | None:
        """The state of the newest checkpoint that is what was saved; those after it are told and passed over.

        Raises:
            BrokenCheckpointError: it belongs to another run.
        """
        for step in reversed(self.steps()):
            try:
                return self._verified(step)
            except _UnusableError as error:
                self._notice(f"CHECKPOINT {self.path(step)} IS BROKEN ({error}): going back to the one before")
        return None

    def is_intact(self, step: int) -> bool:
        """Whether there is a checkpoint of a step, and is what was saved.

        Raises:
            BrokenCheckpointError: it belongs to another run.
        """
        try:
            self._verified(step)
        except _UnusableError:
            return False
        return True

    def state(self, step: int) -> TrainingState:
        """The state of a checkpoint that `newest` has named."""
        return TrainingState.from_json(self._record(step))

    def restore(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Loads a checkpoint that `newest` has named into model and optimiser, in place.

        Raises:
            BrokenCheckpointError: it does not fit the model.
        """
        tensors, moments = (self._load(step, name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE))
        parameters = dict(model.named_parameters())
        if odd := sorted(parameters.keys() ^ tensors.keys()):
            raise BrokenCheckpointError(f"{self.path(step)}: {odd[0]} is in the model or in the file, not in both")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
                found = {key: moments[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                # The fused kernel reads `step` on the device of the parameter, too.
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint that was written to its end, ascending."""
        return sorted(step for step, files in self._files().items() if STATE_FILE in files)

    def path(self, step: int, *names: str) -> str:
        """Folder of a checkpoint, or a file in it."""
        return storage.join(self._folder, f"step-{step:07d}", *names)

    def best(self) -> int | None:
        """The step with the lowest cost of those that are there, by default the held-out loss."""
        costs = {step: self._cost_of(step) for step in self.steps()}
        known = {step: cost for step, cost in costs.items() if math.isfinite(cost)}
        return min(known, key=lambda step: (known[step], step)) if known else None

    def _write(self, snapshot: Snapshot) -> None:
        step, hashes = snapshot.state.step, {}
        storage.remove_folder(self.path(step))  # of an attempt that was killed here
        storage.make_folder(self.path(step))
        for name, data in snapshot.files.items():
            storage.write_bytes(self.path(step, name), data)
        for name, tensors in ((WEIGHTS_FILE, snapshot.weights), (OPTIMIZER_FILE, snapshot.moments)):
            with storage.FileWriter(self.path(step, name)) as file:
                file.write(save(dict(tensors), metadata=SAFETENSORS_METADATA))
            hashes[name] = file.sha256
        record = {"schema": _SCHEMA, **snapshot.state.to_json(), "sha256": hashes}
        storage.write_bytes(self.path(step, STATE_FILE), json.dumps(record, indent=1).encode())
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Removes what is not kept, and what was never whole; the steps that are kept are the newest and the best.

        A step after the newest is of an attempt whose end was broken; it must not count as one that is kept.
        """
        for step in self._files():
            if step > newest:
                storage.remove_folder(self.path(step))
        kept = {*self.steps()[-self._keep :], self.best()}
        for step in self._files():
            if step not in kept:
                storage.remove_folder(self.path(step))

    def _files(self) -> dict[int, set[str]]:
        """Names of files by step."""
        found, path = storage.filesystem(self._folder)
        files: dict[int, set[str]] = {}
        for info in found.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True)):
            parts = info.path[len(path.rstrip("/")) + 1 :].split("/")
            if match := _NAME.fullmatch(parts[0]):
                files.setdefault(int(match[1]), set()).update(parts[1:])
        return files

    def _verified(self, step: int) -> TrainingState:
        record = self._record(step)
        try:
            state, hashes = TrainingState.from_json(record), dict(record["sha256"])
        except (LookupError, TypeError, ValueError):
            raise _UnusableError(f"{STATE_FILE} is not what was saved") from None
        for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
            file = self.path(step, name)
            if not storage.exists(file) or storage.sha256(file) != hashes.get(name):
                raise _UnusableError(f"{name} is missing, or not what was saved")
        if state.config_hash != self._config_hash:
            raise BrokenCheckpointError(f"{self.path(step)}: belongs to a run of another config")
        return state

    def _record(self, step: int) -> Mapping[str, Any]:
        try:
            record = json.loads(storage.read_bytes(self.path(step, STATE_FILE)))
        except (ValueError, OSError):
            raise _UnusableError(f"{STATE_FILE} is not whole") from None
        if not isinstance(record, dict) or record.get("schema") != _SCHEMA:
            raise _UnusableError(f"{STATE_FILE} is not of schema {_SCHEMA}")
        return record

    def _cost_of(self, step: int) -> float:
        try:
            return float(self._cost(self._record(step)["metrics"]))
        except (_UnusableError, LookupError, AttributeError):
            return math.nan

    def _load(self, step: int, name: str) -> dict[str, Tensor]:
        uri = self.path(step, name)
        if storage.is_local(uri):
            return load_file(storage.local_path(uri))
        return load(storage.read_bytes(uri))


def newest_step(folder: str) -> int:
    """Return the step of the newest checkpoint in a folder, without reading its weights; 0 if there is none."""
    store = CheckpointStore(folder, keep=1, config_hash="", notice=print)
    return max(store.steps(), default=0)


class _UnusableError(Exception):
    """Why a checkpoint cannot be used."""
