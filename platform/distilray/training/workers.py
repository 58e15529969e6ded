"""The workers of a training run on a Ray cluster: the one place that sets up Ray Train."""

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
from distilray.runtime.resources import Need, training_workers
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
    """Run a function on every worker, and return the result of the first one.

    It must resume by itself: after a failure the workers are restarted. Preempted machines are not counted.

    Args:
        loop: pickled with its arguments. Ray's controller would read a `train_loop_config`, and import torch for it.
        folder: Ray Train's own files of the run; path or URI.
        max_failures: restarts after a worker failed.
        preemption_grace_s: time that Ray Train waits at the end of a preemption notice before it stops the workers.
    """
    count, min_workers = scaling.num_workers, _min_workers(scaling)
    limit_worker_start(scaling)
    filesystem, path = storage.filesystem(folder)
    above, _, name = path.rstrip("/").rpartition("/")
    trainer = TorchTrainer(
        loop,
        scaling_config=train.ScalingConfig(
            num_workers=(min_workers, count) if min_workers else count,
            use_gpu=scaling.use_gpu,
            resources_per_worker=_need(scaling, count).bundle(),
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=above,
            storage_filesystem=None if isinstance(filesystem, fs.LocalFileSystem) else filesystem,
            failure_config=train.FailureConfig(
                max_failures=max_failures, max_preemption_failures=-1, preemption_grace_s=preemption_grace_s
            ),
            logging_config=train.LoggingConfig("ERROR"),  # a submitted job shows what its workers print
        ),
    )
    # In the main thread Ray Train would take over Ctrl-C, and keep it after the run.
    result: _T = run_interruptibly(trainer.fit, name="fit").return_value
    return result


def workers_needed(scaling: ScalingConfig | FineTuneScaling) -> Need:
    """Return the workers that a run starts with."""
    return _need(scaling, _min_workers(scaling) or scaling.num_workers)


def worker_device(*, use_gpu: bool) -> torch.device:
    """Return the device of this worker."""
    return get_device() if use_gpu else torch.device("cpu")


def limit_worker_start(scaling: ScalingConfig | FineTuneScaling) -> None:
    """Let an elastic number of workers wait only half a minute for resources, unless the user set the time.

    Ray Train counts a machine for up to 20 s after it is gone, and would wait for resources on it; after the time-out
    it counts again. A fixed number of workers may have to wait for a cluster that grows.
    """
    if _min_workers(scaling) and os.environ.get(START_TIMEOUT) == ENVIRONMENT[START_TIMEOUT]:
        os.environ[START_TIMEOUT] = _ELASTIC_START_S


def _min_workers(scaling: ScalingConfig | FineTuneScaling) -> int | None:
    return scaling.min_workers if isinstance(scaling, ScalingConfig) else None


def _need(scaling: ScalingConfig | FineTuneScaling, count: int) -> Need:
    return training_workers(count, cpus=scaling.cpus_per_worker, use_gpu=scaling.use_gpu)
