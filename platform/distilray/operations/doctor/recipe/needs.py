"""The workers that a recipe asks for, beside what the cluster or this machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distilray.operations.doctor.check import Finding, fail, ok, warn
from distilray.operations.doctor.cluster import Cluster, Node

if TYPE_CHECKING:
    from distilray.config.base import JobConfig


@dataclass(frozen=True)
class Need:
    """Workers at the same time, and what each of them takes.

    Attributes:
        least: workers that the job goes on with.
        key: of the recipe, that changes their number or size.
    """

    workers: int
    cpus: float
    gpus: float
    least: int
    key: str

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} x {self.cpus:g} CPU{gpus}"


def need_of(config: JobConfig) -> Need | None:
    """What the recipe says; None for a job that works in one process, or takes what there is."""
    scaling: Any = getattr(config, "scaling", None)
    trial: Any = getattr(config, "trial", None)
    if hasattr(scaling, "num_workers"):
        gpus = 1.0 if scaling.use_gpu else 0.0
        least = getattr(scaling, "min_workers", None) or scaling.num_workers
        return Need(scaling.num_workers, scaling.cpus_per_worker, gpus, least, "scaling.num_workers")
    if hasattr(scaling, "gpus_per_task"):
        cpus = 1 if scaling.gpus_per_task else scaling.cpus_per_task
        return Need(1, cpus, scaling.gpus_per_task, 1, "scaling.gpus_per_task")
    if trial is not None:
        return Need(1, trial.cpus, trial.gpus, 1, "trial.gpus")
    return None


def check_workers(need: Need | None, nodes: tuple[Node, ...], cluster: Cluster | None) -> Finding:
    """The workers have room.

    Args:
        need: see `need_of`.
        nodes: machines: of the cluster, or this one.
        cluster: None where a job would start a local Ray, which refuses what does not fit.
    """
    if need is None:
        return ok("one process, or as many tasks as there is room for")
    room = _room(nodes, need)
    where = cluster.address if cluster else "this machine"
    told = f"{need} asked for, {where} has room for {room}"
    if room >= need.workers:
        return ok(told)
    if room >= need.least:
        return warn(f"{told}; the job begins with fewer", f"add machines, or {need.key}={room}")
    if cluster is not None and cluster.can_grow:
        return warn(f"{told} now; its autoscaler has to add machines", "see that its node types hold such a worker")
    lower = f"{need.key}={room}" if room and need.workers > 1 else "a recipe for fewer or smaller workers"
    if need.gpus and not room:
        lower = "scaling.use_gpu=false" if need.key == "scaling.num_workers" else f"{need.key}=0"
    gpus = sum(node.gpus for node in nodes)
    if cluster is None or gpus < need.least * need.gpus:
        return fail(f"{told}, with {gpus:g} GPU in all" if need.gpus else told, f"more machines, or {lower}")
    return warn(f"{told}; the job would wait for more", f"more machines, or {lower}")


def _room(nodes: tuple[Node, ...], need: Need) -> int:
    """Return the number of workers that fit on machines, as a job counts them."""
    from distilray.runtime import resources  # imports Ray, which may not be installed

    bundle = resources.Need("worker", "", cpus=need.cpus, gpus=need.gpus)
    return bundle.fitting([resources.Node({"CPU": node.cpus, "GPU": node.gpus}) for node in nodes])
