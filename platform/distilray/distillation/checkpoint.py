"""Checkpoints: a model folder that plain `from_pretrained` loads, the optimiser as safetensors, the rest as JSON.

Nothing random is saved: the examples, the masks and the dropout of a step follow from (seed, step) alone.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distilray.models.masked_lm import WEIGHTS_FILE, save_model
from distilray.pretraining_data.sample_plan import PlanState
from distilray.runtime import storage

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


class BrokenCheckpointError(RuntimeError):
    """A checkpoint whose files are not the ones that were saved."""


@contextmanager
def saved_checkpoint(
    model: Any, optimizer: torch.optim.Optimizer, *, step: int, state: PlanState, tokenizer_json: str
) -> Iterator[train.Checkpoint]:
    """A checkpoint in a temporary folder, for `ray.train.report`, which copies it to storage."""
    with tempfile.TemporaryDirectory(prefix="distilray-checkpoint-") as temporary:
        folder = Path(temporary)
        save_model(model, folder, tokenizer_json)
        save_file(_optimizer_tensors(model, optimizer), folder / OPTIMIZER_FILE)
        hashes = {name: storage.sha256(str(folder / name)) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        (folder / STATE_FILE).write_text(json.dumps({"step": step, **asdict(state), "sha256": hashes}))
        yield train.Checkpoint.from_directory(temporary)


def restore_checkpoint(
    checkpoint: train.Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, PlanState]:
    """Loads model and optimiser in place and returns the finished steps, and how far in the examples they came.

    Raises:
        BrokenCheckpointError: a file is missing or was changed.
    """
    with checkpoint.as_directory() as directory:
        folder = Path(directory)
        state = _read_state(folder)
        missing = model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False).missing_keys
        tied = set(getattr(model, "_tied_weights_keys", None) or ())
        if set(missing) - tied:
            raise BrokenCheckpointError(f"{checkpoint.path}: no {sorted(set(missing) - tied)[0]} in {WEIGHTS_FILE}")
        tensors = load_file(folder / OPTIMIZER_FILE)
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                key: tensors[f"{name}/{key}"].to(parameter.device)  # the fused kernel reads `step` there too
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return int(state["step"]), PlanState(state["epoch"], state["consumed"])


def _read_state(folder: Path) -> Mapping[str, Any]:
    file = folder / STATE_FILE
    if not file.is_file():
        raise BrokenCheckpointError(f"{folder}: no {STATE_FILE}")
    state: dict[str, Any] = json.loads(file.read_text())
    for name, expected in state["sha256"].items():
        if not (folder / name).is_file() or storage.sha256(str(folder / name)) != expected:
            raise BrokenCheckpointError(f"{folder / name}: missing, or not what was saved (sha256)")
    return state


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
