"""Plan of a search: its trials, the resources of each, and how many run concurrently."""

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
from distilray.models.flops import model_size
from distilray.models.masked_lm import count_parameters
from distilray.models.sources import localize
from distilray.pretraining_data.batches import padded_width
from distilray.runtime.environment import inside_cluster
from distilray.runtime.resources import GIB, Need, Node, check_capacity, cluster_nodes
from tuning.space import describe_space, evaluation_range, first_point, max_lengths, points, value_range

_FP32_BYTES = 4
_TASK_MEMORY_SHARE = 0.7  # fraction of the memory that Ray gives to tasks; the rest is the object store
# Memory of a process without a model: Python and torch, or on a GPU its context and the workspaces of kernels.
_PROCESS_BYTES, _CONTEXT_BYTES = GIB // 2, GIB


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that determine its memory."""

    parameters: int
    layers: int
    hidden: int
    heads: int
    intermediate: int

    @classmethod
    def of(cls, model: Any) -> "ModelShape":
        size = model_size(model)
        return cls(
            parameters=count_parameters(model),
            layers=size.layers,
            hidden=size.dim,
            heads=model.config.num_attention_heads,
            intermediate=size.hidden_dim,
        )


@dataclass(frozen=True)
class TrialNeed:
    """Resources of one trial: CPUs, share of a GPU, and bytes of memory (GPU memory if the trial uses a GPU)."""

    cpus: float
    gpus: float
    memory: int

    def request(self) -> Need:
        """Return the resources to request from Ray, which does not manage the memory of GPUs."""
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
    """Return the resources of a trial; its memory is estimated unless the recipe sets it."""
    estimated = estimate_bytes(shape, batch_size=batch_size, max_length=max_length, on_device=trial.gpus > 0)
    memory = estimated if trial.memory_gb is None else int(trial.memory_gb * 1e9)
    return TrialNeed(trial.cpus, trial.gpus, memory)


def estimate_bytes(shape: ModelShape, *, batch_size: int, max_length: int, on_device: bool) -> int:
    """Return an upper estimate of the bytes of memory that one fine-tuning run in fp32 needs. It is the sum of:

    - 4 numbers per parameter (weight, gradient, two moments), or 8 on the CPU, because the best weights and the
      checkpoint that is being written are copies in the same memory;
    - activations as in Korthikanti et al. 2022 (section 4.1), with 4 bytes per number and dropout masks of 1 byte (4 on
      the CPU): per token, 12 x hidden for the embeddings and (32 + 2 x mask) x hidden + 8 x intermediate + (8 + mask) x
      heads x length for each layer;
    - 0.5 GiB for the process, or 1 GiB for the context of a GPU.
    """
    copies, mask = (4, 1) if on_device else (8, 4)
    per_layer = (32 + 2 * mask) * shape.hidden + 8 * shape.intermediate + (8 + mask) * shape.heads * max_length
    activations = batch_size * max_length * (shape.layers * per_layer + 12 * shape.hidden)
    return shape.parameters * copies * _FP32_BYTES + activations + (_CONTEXT_BYTES if on_device else _PROCESS_BYTES)


def check_device(need: TrialNeed, device_bytes: int) -> None:
    """Check that a GPU has enough memory for all trials that share it.

    Raises:
        InputError: it does not. The message suggests a share that fits.
    """
    concurrent = trials_per_device(need.gpus)
    if concurrent * need.memory > device_bytes:
        fitting = device_bytes // need.memory
        fix = f"set trial.gpus={math.ceil(100 / fitting) / 100:g}" if fitting else "lower batch_size and max_length"
        raise InputError(
            f"trial.gpus: {concurrent} trials of {need.memory / GIB:.1f} GiB on a device of "
            f"{device_bytes / GIB:.1f} GiB; {fix}, or set trial.memory_gb if you know that they need less"
        )


def trials_per_device(gpus: float) -> int:
    return int(1 / gpus + 1e-6)


def split_slots(room: int, tasks: int) -> list[int]:
    """Return the number of concurrent trials of each task: equal shares, the remainder for the first tasks.

    Every task gets at least one slot. With more tasks than slots, trials wait for a free one; this cannot deadlock,
    because no trial holds a slot while it waits for another.
    """
    return [max(1, room // tasks + (number < room % tasks)) for number in range(tasks)]


def plan_search(config: SearchGlueConfig) -> dict[str, object]:
    """Validate the inputs of `search_glue` and return its plan."""
    if config.method == "tpe" and importlib.util.find_spec("optuna") is None:
        raise InputError("method: tpe needs optuna; run: pip install optuna (or make setup)")
    data, missing = load_tasks(config, with_test=False)
    need = largest_trial_need(config, data)
    nodes = _known_nodes(config)
    concurrent = "as many as fit into the cluster"
    if nodes is not None:
        check_capacity(need.request(), nodes)
        room = need.request().count_fitting(nodes)
        check_local_device(need)
        concurrent = f"{room}: " + ", ".join(
            f"{task} {slots}" for task, slots in zip(data, split_slots(room, len(data)), strict=True)
        )
    return {
        "model": config.model_dir,
        **{task: _describe_task(config, task) for task in data},
        "missing": ", ".join(missing) or "none",
        "trial": f"{need}{' (estimate)' if config.trial.memory_gb is None else ''}",
        "concurrent": concurrent,
        "winners": f"fine-tuned again with seeds {', '.join(_seeds(config, data))}; trials use seed {config.seed}",
        "ETA": "printed after the first trials",
    }


def largest_trial_need(config: SearchGlueConfig, tasks: Iterable[TaskName]) -> TrialNeed:
    """Return the resources of the largest trial of all tasks.

    Raises:
        InputError: the model cannot be used, or `max_length` exceeds the maximum length of the model.
    """
    needs = []
    for task in tasks:
        model = load_classifier(localize(config.model_dir), TASKS[task], seed=config.seed)
        length = max(max_lengths(config, task))
        if padded_width(length) > (limit := model.config.max_position_embeddings):
            raise InputError(
                f"max_length: {length} tokens for {task}, but {config.model_dir} supports {limit}; lower it"
            )
        batch_size = int(value_range(config, task, "batch_size")[1])
        needs.append(trial_need(config.trial, ModelShape.of(model), batch_size=batch_size, max_length=length))
    return max(needs, key=lambda need: need.memory)


def trial_count(config: SearchGlueConfig, task: TaskName) -> int:
    """Return the number of trials of a task: the number of its points, or `num_trials` if TPE chooses them."""
    fixed_points = points(config, task)
    return config.num_trials if fixed_points is None else len(fixed_points)


def check_local_device(need: TrialNeed) -> None:
    """Check that the GPU of this process, if it has one, has enough memory for the trials that share it.

    Raises:
        InputError: see `check_device`.
    """
    if need.gpus and torch.cuda.is_available():
        check_device(need, torch.cuda.get_device_properties(0).total_memory)


def _describe_task(config: SearchGlueConfig, task: TaskName) -> str:
    count, (shortest, longest) = trial_count(config, task), evaluation_range(config, task)
    maximum, minimum = f"{count * longest:,} evaluations at most", ""
    if config.asha.enabled:
        grace = config.asha.grace_evaluations
        if grace > longest:
            raise InputError(
                f"asha.grace_evaluations: {grace}, but the longest trial of {task} has only {longest} evaluations; "
                "lower it, or set asha.enabled=false"
            )
        minimum = f", with ASHA at least {count * min(grace, shortest):,}"
    first = ", ".join(f"{name} {value}" for name, value in first_point(config, task).items())
    space = describe_space(config.task_space(task))
    return f"{config.method}, {count} trials over {space}, the first one with {first}: {maximum}{minimum}"


def _seeds(config: SearchGlueConfig, tasks: Iterable[TaskName]) -> list[str]:
    return [str(seed) for seed in sorted({seed for task in tasks for seed in config.task_config(task).seeds})]


def _known_nodes(config: SearchGlueConfig) -> list[Node] | None:
    """Return the nodes that a run would use, or None if this process cannot know them."""
    if ray.is_initialized():
        return cluster_nodes()
    if inside_cluster():
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _TASK_MEMORY_SHARE
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    return [Node({"CPU": cpus, "GPU": torch.cuda.device_count(), "memory": memory})]
