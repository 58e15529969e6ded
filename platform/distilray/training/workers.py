"""Ray Train setup: runs a function on the workers of a Ray cluster."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from pyarrow import fs
from ray import train
from ray.train.torch import TorchTrainer, get_device

from distilray.config.distillation import ScalingConfig
from distilray.config.glue import FineTuneScaling
from distilray.runtime import storage
from distilray.runtime.resources import Need
from distilray.runtime.session import ENVIRONMENT
from distilray.runtime.signals import run_interruptibly

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_ELASTIC_START_S = "30"

_T = TypeVar("_T")


def run_on_workers(
    loop: Callable[[], _T],
    scaling: ScalingConfig | FineTuneScaling,
    folder: str,
    *,
    max_failures: int,
    preemption_grace_s: float = 0.0,
) -> _T:
    """Run a function on every worker, and return the result of the first worker.

    Workers are restarted after a failure, so the function must be able to resume.

    Args:
        loop: pickled with its bound arguments. As a `train_loop_config`, they would make Ray's controller import torch.
        folder: folder for Ray Train's files; path or URI.
        max_failures: maximum number of restarts, not counting preempted machines.
        preemption_grace_s: time for which the remaining workers continue after the deadline of a preemption notice.
    """
    count, min_workers = scaling.num_workers, _min_workers(scaling)
    limit_worker_start(scaling)
    filesystem, path = storage.filesystem(folder)
    parent, _, name = path.rstrip("/").rpartition("/")
    trainer = TorchTrainer(
        loop,
        scaling_config=train.ScalingConfig(
            num_workers=(min_workers, count) if min_workers else count,
            use_gpu=scaling.use_gpu,
            resources_per_worker=_need(scaling, count).bundle(),
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=parent,
            storage_filesystem=None if isinstance(filesystem, fs.LocalFileSystem) else filesystem,
            failure_config=train.FailureConfig(
                max_failures=max_failures, max_preemption_failures=-1, preemption_grace_s=preemption_grace_s
            ),
            logging_config=train.LoggingConfig("ERROR"),  # keep Ray Train's messages out of the job's log
        ),
    )
    # In the main thread, Ray Train would install its own handler for Ctrl-C and never restore the old one.
    result: _T = run_interruptibly(trainer.fit, name="fit").return_value
    return result


def workers_needed(scaling: ScalingConfig | FineTuneScaling) -> Need:
    """Return the resources of the workers that a run needs to start."""
    return _need(scaling, _min_workers(scaling) or scaling.num_workers)


def worker_device(*, use_gpu: bool) -> torch.device:
    """Return the device of this worker."""
    return get_device() if use_gpu else torch.device("cpu")


def limit_worker_start(scaling: ScalingConfig | FineTuneScaling) -> None:
    """Limit the time that elastic workers wait for resources to half a minute, unless the user has set another limit.

    Ray Train counts a lost machine for up to 20 s and waits for its resources; after the timeout it counts again. A run
    with a fixed number of workers may have to wait longer, until the cluster has scaled up.
    """
    if _min_workers(scaling) and os.environ.get(START_TIMEOUT) == ENVIRONMENT[START_TIMEOUT]:
        os.environ[START_TIMEOUT] = _ELASTIC_START_S


def _min_workers(scaling: ScalingConfig | FineTuneScaling) -> int | None:
    return scaling.min_workers if isinstance(scaling, ScalingConfig) else None


def _need(scaling: ScalingConfig | FineTuneScaling, count: int) -> Need:
    remedy = "lower scaling.num_workers or scaling.cpus_per_worker, or set scaling.use_gpu=false"
    return Need("worker", remedy, cpus=scaling.cpus_per_worker, gpus=int(scaling.use_gpu), count=count)
