"""Resources of a trial: CPUs, share of a GPU, and an estimate of its memory."""

import math
from dataclasses import dataclass
from typing import Any

from distilray.config.glue import TrialConfig
from distilray.errors import InputError
from distilray.models.architectures import architecture_of
from distilray.runtime.resources import GIB, Need

_FP32 = 4
# What a process holds before it has a model: Python with torch; on a device its context and the workspaces of kernels.
_PROCESS_BYTES, _CONTEXT_BYTES = GIB // 2, GIB


@dataclass(frozen=True)
class ModelShape:
    """What decides how much memory a model takes."""

    parameters: int
    layers: int
    hidden: int
    heads: int
    intermediate: int

    @classmethod
    def of(cls, model: Any) -> "ModelShape":
        """Return the shape of an encoder."""
        config = model.config
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            intermediate=architecture_of(config).setting(config, "intermediate_size"),
        )


@dataclass(frozen=True)
class TrialNeed:
    """Resources of one trial: CPUs, share of a GPU, bytes of memory (of the device if it has a share of one)."""

    cpus: float
    gpus: float
    memory: int

    def request(self) -> Need:
        """Return what is requested from Ray, which does not count the memory of devices."""
        return Need(
            "trial",
            "lower trial.cpus, trial.gpus or trial.memory_gb, or batch_size and max_length of the space",
            cpus=self.cpus,
            gpus=self.gpus,
            memory=0 if self.gpus else self.memory,
        )

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU, " if self.gpus else ""
        return f"{self.cpus:g} CPU, {gpus}{self.memory / GIB:.1f} GiB{' of the device' if self.gpus else ''}"


def need_of(trial: TrialConfig, shape: ModelShape, *, batch_size: int, max_length: int) -> TrialNeed:
    """What the largest trial of a search needs; its memory is `estimated_bytes` unless the recipe says it."""
    estimated = estimated_bytes(shape, batch_size=batch_size, max_length=max_length, on_device=trial.gpus > 0)
    memory = estimated if trial.memory_gb is None else int(trial.memory_gb * 1e9)
    return TrialNeed(trial.cpus, trial.gpus, memory)


def estimated_bytes(shape: ModelShape, *, batch_size: int, max_length: int, on_device: bool) -> int:
    """Upper estimate of the memory of one fine-tuning in fp32, in bytes.

    parameters x 4 numbers (weight, gradient, two moments), and on the CPU 4 more: the checkpoint that is being written
    and the best weights are copies there. Activations by the count of Korthikanti et al. 2022 (section 4.1), with
    numbers of 4 bytes and masks of dropout of 1, on the CPU 4: for each token 12 x hidden of the embeddings, and of
    each layer (32 + 2 masks) x hidden + 8 x intermediate + (8 + mask) x heads x length. Besides 0.5 GiB for the
    process, or 1 GiB for the context of a device.
    """
    copies, mask = (4, 1) if on_device else (8, 4)
    of_layer = (32 + 2 * mask) * shape.hidden + 8 * shape.intermediate + (8 + mask) * shape.heads * max_length
    activations = batch_size * max_length * (shape.layers * of_layer + 12 * shape.hidden)
    return shape.parameters * copies * _FP32 + activations + (_CONTEXT_BYTES if on_device else _PROCESS_BYTES)


def check_device(need: TrialNeed, device_bytes: int) -> None:
    """Refuses shares of a device whose trials do not fit into its memory together.

    Raises:
        InputError: naming the share that would fit.
    """
    together = trials_of_device(need.gpus)
    if together * need.memory > device_bytes:
        fitting = device_bytes // need.memory
        fix = f"set trial.gpus={math.ceil(100 / fitting) / 100:g}" if fitting else "lower batch_size and max_length"
        raise InputError(
            f"trial.gpus: {together} trials of {need.memory / GIB:.1f} GiB on a device of "
            f"{device_bytes / GIB:.1f} GiB; {fix}, or say trial.memory_gb if you know that they need less"
        )


def trials_of_device(gpus: float) -> int:
    """Trials that share a device."""
    return int(1 / gpus + 1e-6)


def shares(room: int, tasks: int) -> list[int]:
    """The places of each task when several are searched at the same time: at least one, the first have the remainder.

    With more tasks than places a trial waits for its place; no trial holds one while it waits for another.
    """
    return [max(1, room // tasks + (number < room % tasks)) for number in range(tasks)]
