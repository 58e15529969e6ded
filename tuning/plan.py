"""What a search would do: its trials, what each needs, and how many run at a time.

Resources of a trial: CPUs, share of a GPU, and an estimate of its memory.
"""

import importlib.util
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
import torch

from distilray.config.glue import SearchGlueConfig, TaskName, TrialConfig
from distilray.errors import InputError
from distilray.finetuning.classifier import load_classifier
from distilray.finetuning.files import load_tasks
from distilray.finetuning.tasks import TASKS
from distilray.models.architectures import architecture_of
from distilray.models.sources import localize
from distilray.pretraining_data.batches import padded_width
from distilray.runtime.environment import inside_cluster
from distilray.runtime.resources import GIB, Need, Node, check_capacity, cluster_nodes
from tuning.space import described, evaluations, extremes, first_point, lengths, points

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
            intermediate=architecture_of(config).config_value(config, "intermediate_size"),
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


def trial_need(trial: TrialConfig, shape: ModelShape, *, batch_size: int, max_length: int) -> TrialNeed:
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
    together = trials_per_device(need.gpus)
    if together * need.memory > device_bytes:
        fitting = device_bytes // need.memory
        fix = f"set trial.gpus={math.ceil(100 / fitting) / 100:g}" if fitting else "lower batch_size and max_length"
        raise InputError(
            f"trial.gpus: {together} trials of {need.memory / GIB:.1f} GiB on a device of "
            f"{device_bytes / GIB:.1f} GiB; {fix}, or say trial.memory_gb if you know that they need less"
        )


def trials_per_device(gpus: float) -> int:
    """Trials that share a device."""
    return int(1 / gpus + 1e-6)


def shares(room: int, tasks: int) -> list[int]:
    """The places of each task when several are searched at the same time: at least one, the first have the remainder.

    With more tasks than places a trial waits for its place; no trial holds one while it waits for another.
    """
    return [max(1, room // tasks + (number < room % tasks)) for number in range(tasks)]


# What Ray gives to tasks of a machine's memory; the rest is its object store.
_FOR_TASKS = 0.7


def plan_search(config: SearchGlueConfig) -> dict[str, object]:
    """Validates the inputs of `search_glue` and says what it would do."""
    if config.method == "tpe" and importlib.util.find_spec("optuna") is None:
        raise InputError("method: tpe needs optuna; run: pip install optuna (or make setup)")
    data, missing = load_tasks(config, with_test=False)
    need = largest_trial_need(config, data)
    nodes = _known_nodes(config)
    at_a_time = "as many as the cluster has room for"
    if nodes is not None:
        check_capacity(need.request(), nodes)
        room = need.request().count_fitting(nodes)
        check_local_device(need)
        at_a_time = f"{room}: " + ", ".join(
            f"{task} {share}" for task, share in zip(data, shares(room, len(data)), strict=True)
        )
    return {
        "model": config.model_dir,
        **{task: _told(config, task) for task in data},
        "missing": ", ".join(missing) or "none",
        "a trial": f"{need}{' (estimate)' if config.trial.memory_gb is None else ''}",
        "at a time": at_a_time,
        "winners": f"fine-tuned again with seeds {', '.join(_seeds(config, data))}; trials use seed {config.seed}",
        "ETA": "told with the first trials",
    }


def largest_trial_need(config: SearchGlueConfig, tasks: Iterable[TaskName]) -> TrialNeed:
    """What the largest trial of all tasks needs.

    Raises:
        InputError: the model cannot be used, or reads fewer tokens than a trial would give it.
    """
    needs = []
    for task in tasks:
        model = load_classifier(localize(config.model_dir), TASKS[task], seed=config.seed)
        length = max(lengths(config, task))
        if padded_width(length) > (most := model.config.max_position_embeddings):
            raise InputError(f"max_length: {length} tokens for {task}, {config.model_dir} reads {most}; lower it")
        batch_size = int(extremes(config, task, "batch_size")[1])
        needs.append(trial_need(config.trial, ModelShape.of(model), batch_size=batch_size, max_length=length))
    return max(needs, key=lambda need: need.memory)


def trial_count(config: SearchGlueConfig, task: TaskName) -> int:
    """Trials of a task: a space of few points has fewer than the recipe asks for."""
    found = points(config, task)
    return config.num_trials if found is None else len(found)


def check_local_device(need: TrialNeed) -> None:
    """Refuses trials that do not fit together into the memory of the device of this process, if it has one.

    Raises:
        InputError: they do not.
    """
    if need.gpus and torch.cuda.is_available():
        check_device(need, torch.cuda.get_device_properties(0).total_memory)


def _told(config: SearchGlueConfig, task: TaskName) -> str:
    count, (shortest, longest) = trial_count(config, task), evaluations(config, task)
    most, least = f"{count * longest:,} evaluations at most", ""
    if config.asha.enabled:
        grace = config.asha.grace_evaluations
        if grace > longest:
            raise InputError(
                f"asha.grace_evaluations: {grace}, and the longest trial of {task} has {longest} evaluations; "
                "lower it, or set asha.enabled=false"
            )
        least = f", with ASHA at least {count * min(grace, shortest):,}"
    first = ", ".join(f"{name} {value}" for name, value in first_point(config, task).items())
    space = described(config.task_space(task))
    return f"{config.method}, {count} trials over {space}, the first with {first}: {most}{least}"


def _seeds(config: SearchGlueConfig, tasks: Iterable[TaskName]) -> list[str]:
    return [str(seed) for seed in sorted({seed for task in tasks for seed in config.task_config(task).seeds})]


def _known_nodes(config: SearchGlueConfig) -> list[Node] | None:
    """The machines that a run would have, as far as this process can know them."""
    if ray.is_initialized():
        return cluster_nodes()
    if inside_cluster():
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _FOR_TASKS
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    return [Node({"CPU": cpus, "GPU": torch.cuda.device_count(), "memory": memory})]
