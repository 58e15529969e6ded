"""Checkpoints: a model folder for `from_pretrained`, the optimizer state as safetensors, and the rest as JSON.

No random state is saved: examples, masks and dropout of a step are functions of (seed, step). A checkpoint is copied
from the model and then written in the background. `state.json` is written last and contains the sha256 of the weights
and the optimizer state; a checkpoint is complete if and only if that file exists.
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

CHECKPOINTS_FOLDER = "checkpoints"  # in the folder of a run
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
_SCHEMA = 2
_NAME = re.compile(r"step-(\d{7,})")


class BrokenCheckpointError(RuntimeError):
    """Raised for a checkpoint that is damaged or belongs to another run."""


@dataclass(frozen=True)
class TrainingState:
    """Content of a checkpoint besides weights and optimizer moments.

    Attributes:
        step: number of completed optimizer steps.
        plan: position in the stream of examples.
        config_hash: hash of the run's config.
        skipped_steps: number of steps without an update, in total and most recently in a row.
        scaler: state of the loss scaler; empty without one.
        metrics: latest held-out scores.
    """

    step: int
    plan: PlanState
    config_hash: str
    skipped_steps: tuple[int, int] = (0, 0)
    scaler: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingState":
        plan, skipped = PlanState(**values["plan"]), (values["skipped_steps"][0], values["skipped_steps"][1])
        return cls(values["step"], plan, values["config_hash"], skipped, values["scaler"], values["metrics"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Snapshot:
    """Copy of the content of a checkpoint in host memory, unaffected by further training."""

    state: TrainingState
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, model: Any, optimizer: torch.optim.Optimizer, state: TrainingState, tokenizer_json: str) -> "Snapshot":
        """Copy the model and the optimizer state to host memory."""
        moments = {
            f"{name}/{key}": value
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
            for key, value in optimizer.state[parameter].items()
        }
        weights, moments = (
            {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
            for tensors in (model_tensors(model), moments)
        )
        return cls(state, weights, moments, companion_files(model, tokenizer_json))


class CheckpointStore:
    """Checkpoints of a run, in folders `step-0001000` etc.

    Args:
        folder: path or URI.
        keep: number of latest checkpoints to keep; the best one is kept in addition.
        notice: receives user-facing notices of one line.
        cost: maps the metrics of a checkpoint to a cost. The best checkpoint has the lowest one; NaN means unknown.
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
        """Wait for the previous checkpoint, and then start to write this one in the background.

        Raises:
            InputError: the previous checkpoint could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, snapshot)

    @property
    def is_idle(self) -> bool:
        """True unless a checkpoint is being written."""
        return self._writing is None or self._writing.done()

    def wait(self) -> None:
        """Wait until the current checkpoint is written.

        Raises:
            InputError: it could not be written, for example because the disk is full.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def newest(self) -> TrainingState | None:
        """Return the state of the newest intact checkpoint; a notice is published for damaged ones.

        Raises:
            BrokenCheckpointError: the checkpoint belongs to another run.
        """
        for step in reversed(self.steps()):
            try:
                return self._verify(step)
            except _UnusableError as error:
                self._notice(f"CHECKPOINT {self.path(step)} IS BROKEN ({error}): using the previous one")
        return None

    def is_intact(self, step: int) -> bool:
        """Return whether the checkpoint of a step exists and is not damaged.

        Raises:
            BrokenCheckpointError: the checkpoint belongs to another run.
        """
        try:
            self._verify(step)
        except _UnusableError:
            return False
        return True

    def state(self, step: int) -> TrainingState:
        """Return the state of a checkpoint, without verifying its files."""
        return TrainingState.from_json(self._record(step))

    def restore(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load a checkpoint into the model and the optimizer, in place and without verifying its files.

        Raises:
            BrokenCheckpointError: the checkpoint does not match the model.
        """
        tensors, moments = (self._load(step, name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE))
        parameters = dict(model.named_parameters())
        if unmatched := sorted(parameters.keys() ^ tensors.keys()):
            raise BrokenCheckpointError(f"{self.path(step)}: {unmatched[0]} is in the model or in the file, not both")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])
                if not parameter.requires_grad:
                    continue
                state = {key: moments[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                # The fused kernel also needs `step` on the device of the parameter.
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, ascending."""
        return sorted(step for step, files in self._files().items() if STATE_FILE in files)

    def path(self, step: int, *names: str) -> str:
        """Return the folder of a checkpoint, or a file in it."""
        return storage.join(self._folder, f"step-{step:07d}", *names)

    def best(self) -> int | None:
        """Return the step of the checkpoint with the lowest cost, by default the held-out loss."""
        costs = {step: self._cost_of(step) for step in self.steps()}
        known = {step: cost for step, cost in costs.items() if math.isfinite(cost)}
        return min(known, key=lambda step: (known[step], step)) if known else None

    def _write(self, snapshot: Snapshot) -> None:
        step, hashes = snapshot.state.step, {}
        storage.remove_folder(self.path(step))  # left by an interrupted attempt
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
        """Remove incomplete checkpoints, and complete ones except the newest and the best.

        Checkpoints of later steps than `newest` are damaged, since training resumed before them. They must not count
        as kept.
        """
        for step in self._files():
            if step > newest:
                storage.remove_folder(self.path(step))
        kept = {*self.steps()[-self._keep :], self.best()}
        for step in self._files():
            if step not in kept:
                storage.remove_folder(self.path(step))

    def _files(self) -> dict[int, set[str]]:
        """Return the names of the files of each checkpoint."""
        filesystem, path = storage.filesystem(self._folder)
        files: dict[int, set[str]] = {}
        for info in filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True)):
            parts = info.path[len(path.rstrip("/")) + 1 :].split("/")
            if match := _NAME.fullmatch(parts[0]):
                files.setdefault(int(match[1]), set()).update(parts[1:])
        return files

    def _verify(self, step: int) -> TrainingState:
        record = self._record(step)
        try:
            state, hashes = TrainingState.from_json(record), dict(record["sha256"])
        except (LookupError, TypeError, ValueError):
            raise _UnusableError(f"{STATE_FILE} is damaged") from None
        for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
            file = self.path(step, name)
            if not storage.exists(file) or storage.sha256(file) != hashes.get(name):
                raise _UnusableError(f"{name} is missing or damaged")
        if state.config_hash != self._config_hash:
            raise BrokenCheckpointError(f"{self.path(step)}: belongs to a run with another config")
        return state

    def _record(self, step: int) -> Mapping[str, Any]:
        try:
            record = json.loads(storage.read_bytes(self.path(step, STATE_FILE)))
        except (ValueError, OSError):
            raise _UnusableError(f"{STATE_FILE} is missing or damaged") from None
        if not isinstance(record, dict) or record.get("schema") != _SCHEMA:
            raise _UnusableError(f"{STATE_FILE} does not have schema {_SCHEMA}")
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
    """Return the step of the newest complete checkpoint in a folder, or 0; damage is not detected."""
    store = CheckpointStore(folder, keep=1, config_hash="", notice=print)
    return max(store.steps(), default=0)


class _UnusableError(Exception):
    """Raised for a checkpoint that cannot be used; the message is the reason."""
