"""Fine-tuning runs on the workers of a Ray cluster: several at a time, each a resumable Ray Train run."""

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
_RAY_FOLDER = "ray"  # files of Ray Train, in the folder of each run
_EXTRA_RUNS = 2  # runs that wait for workers in a cluster that may grow; each costs one idle process


def plan_waves(config: EvaluateGlueConfig, tasks: Sequence[TaskName], mnli_dir: str) -> list[list[FineTuneRun]]:
    """Return groups of runs that can run at the same time. Runs that start from MNLI come after it.

    Args:
        mnli_dir: future folder of the model fine-tuned on MNLI.
    """
    if not config.train:
        settings = {task: config.task_config(task) for task in tasks}
        return [
            [
                FineTuneRun(task, values.seeds[0], values, config.model_dir, ALREADY_FINE_TUNED)
                for task, values in settings.items()
            ]
        ]
    from_mnli = tasks_from_mnli(config, tasks)
    first = [
        run for task in tasks if task not in from_mnli for run in _runs(config, task, config.model_dir, FROM_MODEL)
    ]
    second = [run for task in from_mnli for run in _runs(config, task, mnli_dir, FROM_MNLI)]
    return [wave for wave in (first, second) if wave]


def tasks_from_mnli(config: EvaluateGlueConfig, tasks: Iterable[TaskName]) -> list[TaskName]:
    """Return the tasks that start from the model of MNLI."""
    return [task for task in tasks if config.start_from_mnli and TASKS[task].can_start_from_mnli]


def _runs(config: EvaluateGlueConfig, task: TaskName, model_dir: str, start: str) -> list[FineTuneRun]:
    settings = config.task_config(task)
    return [FineTuneRun(task, seed, settings, model_dir, start) for seed in settings.seeds]


def execute_runs(
    runs: Sequence[FineTuneRun],
    features: Mapping[TaskName, TaskFeatures],
    plan: FineTunePlan,
    *,
    run_dir: str,
    job: str,
) -> dict[tuple[TaskName, int], FineTuneRunResult]:
    """Execute fine-tuning runs, as many at a time as the cluster can hold. Runs with a result are not repeated.

    Args:
        runs: runs in any order; the longest ones start first.
        features: encoded rows of their tasks.
        plan: shared settings, without features.
        run_dir: run folder of the job, on storage that all nodes share.
        job: name shown with the progress.

    Raises:
        InputError: the cluster can never provide the workers of a run, or a model cannot be used.
    """
    plan = replace(plan, features={task: ray.put(rows) for task, rows in features.items()})
    steps = {run.name: _total_steps(run, features[run.task]) for run in runs}
    tokens = {
        run.name: steps[run.name] * run.settings.batch_size * features[run.task].train.lengths.mean() for run in runs
    }
    waiting = sorted((run for run in runs if not is_done(plan, run)), key=lambda run: -tokens[run.name])
    if waiting:
        capacity = ensure_capacity(workers_needed(plan.scaling), job=job, run_dir=run_dir)
        for run in waiting:
            rewind_progress(plan, run, steps[run.name])
        with Progress(job, total=sum(steps.values()), unit="steps") as progress:
            progress.start_at(sum(steps_done(plan, run, steps[run.name]) for run in runs))
            for left in _execute_waiting(plan, waiting, capacity, run_dir):
                done = sum(steps_done(plan, run, steps[run.name]) for run in runs)
                progress.advance_to(done, f"fine-tuning runs left: {left}")
    return {(run.task, run.seed): read_result(plan, run) for run in runs}


def _total_steps(run: FineTuneRun, features: TaskFeatures) -> int:
    return 1 if run.start == ALREADY_FINE_TUNED else total_steps(len(features.train), run.settings)


def _execute_waiting(plan: FineTunePlan, waiting: Sequence[FineTuneRun], capacity: int, run_dir: str) -> Iterator[int]:
    """Execute runs in order, and repeatedly yield the number of unfinished ones.

    Inside a cluster, the number of parallel runs follows the number of nodes. A few more runs than fit are started, so
    that the autoscaler sees their requests.
    """
    running: set[Future[None]] = set()
    while waiting or running:
        count = max(0, _max_parallel(plan.scaling, capacity) - len(running))
        starting, waiting = waiting[:count], waiting[count:]
        running |= {start_in_thread(functools.partial(_fit, plan, run), name=run.name) for run in starting}
        finished, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
        raise_if_interrupted()
        if inside_cluster():
            check_run_dir_shared(run_dir)
            capacity = workers_needed(plan.scaling).count_fitting(cluster_nodes())
        yield len(waiting) + len(running)


def train_loop(plan: FineTunePlan, run: FineTuneRun) -> None:
    """Fine-tune on this worker, and write model, predictions and result of the run. All workers must call it."""
    if is_done(plan, run):
        return
    features = ray.get(plan.features[run.task])
    execute_run(plan, run, features, device=worker_device(use_gpu=plan.scaling.use_gpu))


def _fit(plan: FineTunePlan, run: FineTuneRun) -> None:
    run_on_workers(
        functools.partial(train_loop, plan, run),
        plan.scaling,
        storage.join(plan.folder_of(run), _RAY_FOLDER),
        max_failures=plan.scaling.max_failures,
    )


def _max_parallel(scaling: FineTuneScaling, capacity: int) -> int:
    """Return the number of parallel runs for a cluster that can hold `capacity` workers."""
    limit = capacity // scaling.num_workers + (_EXTRA_RUNS if inside_cluster() else 0)
    return min(limit, scaling.max_parallel or limit)
