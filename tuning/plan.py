"""What a search would do: its trials, what each needs, and how many run at a time."""

import importlib.util
import os
from collections.abc import Iterable

import ray
import torch

from distilray.config.glue import SearchGlueConfig, TaskName
from distilray.errors import InputError
from distilray.finetuning.classifier import load_classifier
from distilray.finetuning.files import load_tasks
from distilray.finetuning.tasks import TASKS
from distilray.models.sources import localise
from distilray.pretraining_data.batches import padded_width
from distilray.runtime.environment import inside_cluster
from distilray.runtime.resources import Node, cluster_nodes, refuse_unless_fitting
from tuning.resources import ModelShape, TrialNeed, check_device, need_of, shares
from tuning.space import described, evaluations, extremes, first_point, lengths, points

# What Ray gives to tasks of a machine's memory; the rest is its object store.
_FOR_TASKS = 0.7


def plan_search(config: SearchGlueConfig) -> dict[str, object]:
    """Validates the inputs of `search_glue` and says what it would do."""
    if config.method == "tpe" and importlib.util.find_spec("optuna") is None:
        raise InputError("method: tpe needs optuna; run: pip install optuna (or make setup)")
    data, missing = load_tasks(config, with_test=False)
    need = need_of_search(config, data)
    nodes = _known_nodes(config)
    at_a_time = "as many as the cluster has room for"
    if nodes is not None:
        refuse_unless_fitting(need.request(), nodes)
        room = need.request().fitting(nodes)
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


def need_of_search(config: SearchGlueConfig, tasks: Iterable[TaskName]) -> TrialNeed:
    """What the largest trial of all tasks needs.

    Raises:
        InputError: the model cannot be used, or reads fewer tokens than a trial would give it.
    """
    needs = []
    for task in tasks:
        model = load_classifier(localise(config.model_dir), TASKS[task], seed=config.seed)
        length = max(lengths(config, task))
        if padded_width(length) > (most := model.config.max_position_embeddings):
            raise InputError(f"max_length: {length} tokens for {task}, {config.model_dir} reads {most}; lower it")
        batch_size = int(extremes(config, task, "batch_size")[1])
        needs.append(need_of(config.trial, ModelShape.of(model), batch_size=batch_size, max_length=length))
    return max(needs, key=lambda need: need.memory)


def trials_of(config: SearchGlueConfig, task: TaskName) -> int:
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
    count, (shortest, longest) = trials_of(config, task), evaluations(config, task)
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
    space = described(config.space_of(task))
    return f"{config.method}, {count} trials over {space}, the first with {first}: {most}{least}"


def _seeds(config: SearchGlueConfig, tasks: Iterable[TaskName]) -> list[str]:
    return [str(seed) for seed in sorted({seed for task in tasks for seed in config.of_task(task).seeds})]


def _known_nodes(config: SearchGlueConfig) -> list[Node] | None:
    """The machines that a run would have, as far as this process can know them."""
    if ray.is_initialized():
        return cluster_nodes()
    if inside_cluster():
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _FOR_TASKS
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    return [Node({"CPU": cpus, "GPU": torch.cuda.device_count(), "memory": memory})]
