"""Fine-tunings on the workers of a Ray cluster: several at a time, each a Ray Train run that is taken up again."""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import ray
import torch
from pyarrow import fs
from ray import train
from ray.train.torch import TorchTrainer, get_device

from distilray.config.glue import FineTuneScaling, TaskDistillationConfig, TaskName
from distilray.errors import InputError
from distilray.evaluation.glue.features import TaskFeatures
from distilray.evaluation.glue.training.schedule import total_steps
from distilray.evaluation.units import (
    Plan,
    Unit,
    UnitResult,
    fit_unit,
    forget_progress,
    is_done,
    read_result,
    steps_done,
)
from distilray.runtime import storage
from distilray.runtime.interruption import raise_if_interrupted
from distilray.runtime.reporting.progress import Progress

_POLL_S = 1.0


def run_units(
    units: Sequence[Unit],
    features: Mapping[TaskName, TaskFeatures],
    *,
    folder: str,
    precision: str,
    scaling: FineTuneScaling,
    job: str,
    distillation: TaskDistillationConfig | None = None,
    with_test: bool = False,
) -> dict[tuple[TaskName, int], UnitResult]:
    """Runs fine-tunings, as many at a time as the cluster has room for; those that have a result are not run again.

    Args:
        units: in any order; the longest are begun first.
        features: of their tasks.
        folder: of the run; each unit has one of its own below `units/`.
        job: its name, for the line of progress.
        with_test: also predicts the test sets.

    Raises:
        InputError: one of them can never have its workers, or a model cannot be used.
    """
    shared = {task: ray.put(found) for task, found in features.items()}
    plan = Plan(folder, precision, scaling, distillation, with_test, shared)
    steps = {unit.name: total_steps(len(features[unit.task].train), unit.settings) for unit in units}
    tokens = {
        unit.name: steps[unit.name] * unit.settings.batch_size * features[unit.task].train.lengths.mean()
        for unit in units
    }
    left = sorted((unit for unit in units if not is_done(plan, unit)), key=lambda unit: -tokens[unit.name])
    if left:
        parallel = min(_parallel(scaling, ray.cluster_resources()), len(left))
        with Progress(job, total=sum(steps.values()), unit="steps") as progress:
            progress.start_at(sum(steps.values()) - sum(steps[unit.name] for unit in left))
            for unit in left:
                forget_progress(plan, unit)
            waiting = _begin(left, functools.partial(_fit, plan), threads=parallel)
            while waiting:
                ended, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                raise_if_interrupted()
                done = sum(steps_done(plan, unit, steps[unit.name]) for unit in units)
                progress.advance_to(done, f"fine-tunings left: {len(waiting)}")
    return {(unit.task, unit.seed): read_result(plan, unit) for unit in units}


def train_loop(arguments: Mapping[str, Any]) -> None:
    """Runs on each worker of a unit: fine-tunes, and leaves model, predictions and result in the folder of the unit."""
    plan, unit = arguments["plan"], arguments["unit"]
    if is_done(plan, unit):
        return
    features = ray.get(plan.features[unit.task])
    fit_unit(plan, unit, features, device=get_device() if plan.scaling.use_gpu else torch.device("cpu"))


def _fit(plan: Plan, unit: Unit) -> None:
    """A run of Ray Train."""
    found, path = storage.filesystem(plan.place(unit))
    resources = {"CPU": plan.scaling.cpus_per_worker, **({"GPU": 1} if plan.scaling.use_gpu else {})}
    TorchTrainer(
        # Not as `train_loop_config`: Ray's controller would read that too, and import torch and transformers for it.
        functools.partial(train_loop, {"plan": plan, "unit": unit}),
        scaling_config=train.ScalingConfig(
            num_workers=plan.scaling.num_workers, use_gpu=plan.scaling.use_gpu, resources_per_worker=resources
        ),
        run_config=train.RunConfig(
            name="ray",  # Ray Train's own files of the run; checkpoints are ours
            storage_path=path,
            storage_filesystem=None if isinstance(found, fs.LocalFileSystem) else found,
            failure_config=train.FailureConfig(max_failures=plan.scaling.max_failures, max_preemption_failures=-1),
        ),
    ).fit()


def _begin(units: Sequence[Unit], work: Callable[[Unit], None], *, threads: int) -> set[Future[None]]:
    """Begins the work for units in threads that an error or an interrupt does not wait for."""
    left: queue.SimpleQueue[tuple[Future[None], Unit]] = queue.SimpleQueue()
    futures: set[Future[None]] = set()
    for unit in units:
        future: Future[None] = Future()
        futures.add(future)
        left.put((future, unit))

    def take() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                future, unit = left.get_nowait()
                try:
                    work(unit)
                    future.set_result(None)
                except BaseException as error:
                    future.set_exception(error)

    for number in range(threads):
        threading.Thread(target=take, name=f"fit-{number}", daemon=True).start()
    return futures


def _parallel(scaling: FineTuneScaling, have: Mapping[str, float]) -> int:
    """How many fine-tunings have room in the cluster at the same time."""
    needs = {
        "CPU": scaling.num_workers * scaling.cpus_per_worker,
        "GPU": scaling.num_workers if scaling.use_gpu else 0,
    }
    for name, need in needs.items():
        if need > have.get(name, 0):
            raise InputError(
                f"scaling: a fine-tuning needs {need:g} {name}, the cluster has {have.get(name, 0):g}; lower "
                "scaling.num_workers or cpus_per_worker, or set scaling.use_gpu=false"
            )
    room = min(int(have[name] // need) for name, need in needs.items() if need)
    return min(room, scaling.max_parallel or room)
