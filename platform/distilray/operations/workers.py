"""Number and size of the workers that a recipe requests.

This module imports no third-party packages, so that the doctor can use it before they are installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilray.config.base import JobConfig


@dataclass(frozen=True)
class WorkerNeed:
    """Workers that a recipe requests.

    Attributes:
        workers: number of workers that run at the same time.
        cpus, gpus: CPUs and GPUs of each worker.
        min_workers: smallest number of workers with which the job can start.
        key: recipe key that changes the number or the size of the workers.
    """

    workers: int
    cpus: float
    gpus: float
    min_workers: int
    key: str

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} x {self.cpus:g} CPU{gpus}"


def worker_need(config: JobConfig) -> WorkerNeed | None:
    """Return the workers of a recipe, or None if the job runs in one process or adapts to the available resources."""
    scaling: Any = getattr(config, "scaling", None)
    trial: Any = getattr(config, "trial", None)
    if hasattr(scaling, "num_workers"):
        gpus = 1.0 if scaling.use_gpu else 0.0
        min_workers = getattr(scaling, "min_workers", None) or scaling.num_workers
        return WorkerNeed(scaling.num_workers, scaling.cpus_per_worker, gpus, min_workers, "scaling.num_workers")
    if hasattr(scaling, "gpus_per_task"):
        cpus = 1 if scaling.gpus_per_task else scaling.cpus_per_task
        return WorkerNeed(1, cpus, scaling.gpus_per_task, 1, "scaling.gpus_per_task")
    return None if trial is None else WorkerNeed(1, trial.cpus, trial.gpus, 1, "trial.gpus")
