"""Fine-tunings on the workers of a Ray cluster: several at a time, each a Ray Train run that resumes."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

import ray

from distilray.config.glue import EvaluateGlueConfig, FineTuneScaling, TaskName
from distilray.finetuning.features import TaskFeatures
from distilray.finetuning.fine_tune_run import (
    ALREADY_FINE_TUNED,
    FROM_MNLI,
    FROM_MODEL,
    FineTunePlan,
    FineTuneRun,
    FineTuneRunResult,
    execute_run,
    is_done,
    read_result,
    rewind_progress,
    steps_done,
)
from distilray.finetuning.objective import total_steps
from distilray.finetuning.tasks import TASKS
from distilray.runtime import storage
from distilray.runtime.environment import inside_cluster
from distilray.runtime.progress import Progress
from distilray.runtime.resources import check_run_dir_shared, cluster_nodes, ensure_capacity
from distilray.runtime.signals import raise_if_interrupted, start_in_thread
from distilray.training.workers import run_on_workers, worker_device, workers_needed

_POLL_S = 1.0
_RAY_FOLDER = "ray"  # of a unit: Ray Train's own files
_AHEAD = 2  # fine-tunings that wait for their workers in a cluster that may grow; a waiting one is one idle process


def plan_waves(config: EvaluateGlueConfig, tasks: Sequence[TaskName], mnli_dir: str) -> list[list[FineTuneRun]]:
    """Return the units that can run at the same time: those that start from MNLI come after it.

    Args:
        mnli_dir: the folder that the model of MNLI will be in.
    """
    if not config.train:
        settings = {task: config.task_config(task) for task in tasks}
        return [
            [
                FineTuneRun(task, each.seeds[0], each, config.model_dir, ALREADY_FINE_TUNED)
                for task, each in settings.items()
            ]
        ]
    later = tasks_from_mnli(config, tasks)
    first = [unit for task in tasks if task not in later for unit in _units(config, task, config.model_dir, FROM_MODEL)]
    second = [unit for task in later for unit in _units(config, task, mnli_dir, FROM_MNLI)]
    return [wave for wave in (first, second) if wave]


def tasks_from_mnli(config: EvaluateGlueConfig, tasks: Iterable[TaskName]) -> list[TaskName]:
    """Return the tasks that start from the model of MNLI."""
    return [task for task in tasks if config.start_from_mnli and TASKS[task].can_start_from_mnli]


def _units(config: EvaluateGlueConfig, task: TaskName, model_dir: str, start: str) -> list[FineTuneRun]:
    settings = config.task_config(task)
    return [FineTuneRun(task, seed, settings, model_dir, start) for seed in settings.seeds]


def execute_runs(
    units: Sequence[FineTuneRun],
    features: Mapping[TaskName, TaskFeatures],
    plan: FineTunePlan,
    *,
    run_dir: str,
    job: str,
) -> dict[tuple[TaskName, int], FineTuneRunResult]:
    """Run fine-tunings, as many at a time as the cluster has room for. Those that have a result are not run again.

    Args:
        units: in any order; the longest start first.
        features: of their tasks.
        plan: without features.
        run_dir: folder of the run, which all nodes must share.
        job: its name, for the progress.

    Raises:
        InputError: one of them can never have its workers, or a model cannot be used.
    """
    plan = replace(plan, features={task: ray.put(each) for task, each in features.items()})
    steps = {unit.name: _steps(unit, features[unit.task]) for unit in units}
    tokens = {
        unit.name: steps[unit.name] * unit.settings.batch_size * features[unit.task].train.lengths.mean()
        for unit in units
    }
    waiting = sorted((unit for unit in units if not is_done(plan, unit)), key=lambda unit: -tokens[unit.name])
    if waiting:
        room = ensure_capacity(workers_needed(plan.scaling), job=job, run_dir=run_dir)
        for unit in waiting:
            rewind_progress(plan, unit, steps[unit.name])
        with Progress(job, total=sum(steps.values()), unit="steps") as progress:
            progress.start_at(sum(steps_done(plan, unit, steps[unit.name]) for unit in units))
            for left in _run_waiting(plan, waiting, room, run_dir):
                done = sum(steps_done(plan, unit, steps[unit.name]) for unit in units)
                progress.advance_to(done, f"fine-tunings left: {left}")
    return {(unit.task, unit.seed): read_result(plan, unit) for unit in units}


def _steps(unit: FineTuneRun, features: TaskFeatures) -> int:
    return 1 if unit.start == ALREADY_FINE_TUNED else total_steps(len(features.train), unit.settings)


def _run_waiting(plan: FineTunePlan, waiting: Sequence[FineTuneRun], room: int, run_dir: str) -> Iterator[int]:
    """Run fine-tunings in their order, and yield the number of unfinished ones each time that one may have ended.

    Inside a cluster the number that runs follows the nodes, and a few more than there is room for are started, so that
    the autoscaler sees their requests.
    """
    running: set[Future[None]] = set()
    while waiting or running:
        count = max(0, _parallel(plan.scaling, room) - len(running))
        starting, waiting = waiting[:count], waiting[count:]
        running |= {start_in_thread(functools.partial(_fit, plan, unit), name=unit.name) for unit in starting}
        ended, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()
        raise_if_interrupted()
        if inside_cluster():
            check_run_dir_shared(run_dir)
            room = workers_needed(plan.scaling).count_fitting(cluster_nodes())
        yield len(waiting) + len(running)


def train_loop(plan: FineTunePlan, unit: FineTuneRun) -> None:
    """Fine-tune on this worker, and write model, predictions and result of the unit; all workers call it."""
    if is_done(plan, unit):
        return
    features = ray.get(plan.features[unit.task])
    execute_run(plan, unit, features, device=worker_device(use_gpu=plan.scaling.use_gpu))


def _fit(plan: FineTunePlan, unit: FineTuneRun) -> None:
    run_on_workers(
        functools.partial(train_loop, plan, unit),
        plan.scaling,
        storage.join(plan.place(unit), _RAY_FOLDER),
        max_failures=plan.scaling.max_failures,
    )


def _parallel(scaling: FineTuneScaling, room: int) -> int:
    """Return the number of fine-tunings to begin, for a cluster with room for so many workers."""
    most = room // scaling.num_workers + (_AHEAD if inside_cluster() else 0)
    return min(most, scaling.max_parallel or most)
