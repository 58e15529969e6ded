"""Ray session of a job: the cluster that it was submitted to, or a local cluster that stops with the job."""

import contextlib
import functools
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

import distilray
from distilray.config.base import RayConfig
from distilray.errors import InputError, find_input_error
from distilray.runtime.environment import inside_cluster, temporary_environment, worker_setup_hook
from distilray.runtime.resources import Need, ensure_capacity
from distilray.runtime.run_owner import check_visible

# Defaults for every session; variables set by the user take precedence. Usage reports are off because clusters may be
# in closed networks; `jobs/runtime_env.yaml` has the reasons for the others.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

# Variable with the labels of the nodes for data tasks, such as `role=data`, set by the cluster. Otherwise Ray would
# also schedule data tasks on GPU nodes and slow down training.
DATA_LABELS = "DISTILRAY_DATA_LABELS"
_INPUT_ERROR = "input_error"  # column of a table returned instead of a result


@contextlib.contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connect to the cluster in the environment, or run a local cluster until the block ends.

    If there is a session already, reuse it, so that all stages of a pipeline share one.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    previous_handler = signal.getsignal(signal.SIGTERM)
    with temporary_environment({"PYTHONPATH": _import_paths()}):
        ray.init(**_cluster_arguments(config), log_to_driver=inside_cluster(), logging_level=logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, previous_handler)  # undo the handler that Ray installs, which exits silently
    _set_up_data()
    try:
        yield
    finally:
        ray.shutdown()


def data_labels() -> dict[str, str] | None:
    """Return the labels of the nodes for data tasks, or None if every node is suitable.

    Raises:
        InputError: `DISTILRAY_DATA_LABELS` is not a comma-separated list of `key=value`.
    """
    text = os.environ.get(DATA_LABELS, "")
    if not text or not inside_cluster():
        return None
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    if not all(key and value for key, _, value in pairs):
        raise InputError(f"{DATA_LABELS}={text!r}: write comma-separated key=value pairs, as in role=data")
    return {key: value for key, _, value in pairs}


def run_tasks(
    items: Sequence[dict[str, Any]],
    task: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    job: str,
    run_dir: str,
    num_cpus: int = 1,
    num_gpus: float = 0.0,
    actors: bool = False,
    remedy: str = "give the local cluster more CPUs (ray.num_cpus)",
) -> Iterator[Any]:
    """Run a Ray Data task for each item and yield the results in the order of completion.

    Tasks without a GPU run on the nodes of `data_labels`. Inside a cluster, wait until there is room for a task.

    Args:
        items: arguments of the tasks, as values that Arrow can store: a few numbers and names.
        task: maps an item to its result, which Arrow can store too. It may run twice for an item if a node is lost.
        job: name of the job, for messages while it waits.
        run_dir: run folder, which all nodes must share.
        num_cpus: CPUs per task without a GPU.
        num_gpus: GPUs per task, possibly a fraction. A task with a GPU also uses one CPU.
        actors: True to run the tasks in actors, each with one copy of `task`, which can keep a model that it loaded.
        remedy: advice on how to lower the need of a task, for error messages.

    Raises:
        InputError: raised by a task, or a task can never run.
    """
    if not items:
        return
    labels = None if num_gpus else data_labels()
    need = Need("task", remedy, cpus=0 if num_gpus else num_cpus, gpus=num_gpus, labels=labels or {})
    room = ensure_capacity(need, job=job, run_dir=run_dir)
    options = ray.data.DataContext.get_current().execution_options
    previous = options.preserve_order, options.label_selector
    options.preserve_order, options.label_selector = False, labels
    try:
        dataset = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
        # Ray Data warns if both are set.
        resources = {"num_gpus": num_gpus} if num_gpus else {"num_cpus": num_cpus}
        run = functools.partial(_run_on_batch, task=task, run_dir=run_dir if inside_cluster() else None)
        function = _actor_arguments(run, len(items), room) if actors else {"fn": run}
        yield from result_rows(dataset.map_batches(**function, batch_size=1, batch_format="pyarrow", **resources))
    finally:
        options.preserve_order, options.label_selector = previous


def _actor_arguments(run: Callable[[pa.Table], pa.Table], tasks: int, room: int) -> dict[str, Any]:
    """Return the arguments of `map_batches` for actors: one per task if there is room; more when the cluster grows."""
    size = min(tasks, room)
    pool = ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=tasks if inside_cluster() else size)
    return {"fn": _TaskActor, "fn_constructor_args": (run,), "compute": pool}


class _TaskActor:
    """Ray Data actor around `_run_on_batch` with one copy of a task."""

    def __init__(self, run: Callable[[pa.Table], pa.Table]) -> None:
        self._run = run

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._run(batch)


def _run_on_batch(
    batch: pa.Table, *, task: Callable[[dict[str, Any]], dict[str, Any]], run_dir: str | None
) -> pa.Table:
    try:
        if run_dir is not None:
            check_visible(run_dir)
        return pa.Table.from_pylist([task(row["item"]) for row in batch.to_pylist()])
    except Exception as error:
        return input_error_table(error)


def input_error_table(error: Exception) -> pa.Table:
    """Return a table that represents an `InputError`, because Ray Data drops the cause of an exception in a task.

    Raises:
        Exception: the error itself, if it was not caused by an `InputError`.
    """
    cause = find_input_error(error)
    if cause is None:
        raise error
    return pa.Table.from_pylist([{_INPUT_ERROR: str(cause)}])


def is_input_error(batch: pa.Table) -> bool:
    """Return whether a table was created by `input_error_table`."""
    return _INPUT_ERROR in batch.column_names


def result_rows(results: ray.data.Dataset) -> Iterator[Any]:
    """Yield the rows returned by tasks.

    Raises:
        InputError: a task failed with one.
    """
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            if _INPUT_ERROR in row:
                raise InputError(row[_INPUT_ERROR])
            yield row


def _cluster_arguments(config: RayConfig) -> dict[str, object]:
    if inside_cluster():
        address = os.environ["RAY_ADDRESS"]
        if address.startswith("http"):
            raise InputError(
                f"RAY_ADDRESS={address}: a dashboard accepts only submitted jobs; run python -m jobs.submit, or unset "
                "RAY_ADDRESS to run the job on this machine"
            )
        # Ray takes the address and the rest of the runtime environment from the job.
        hook = worker_setup_hook(os.environ)
        return {"runtime_env": {"worker_process_setup_hook": hook}} if hook else {}
    # Ray protects a local cluster with a token because its ports listen on all interfaces. A temporary token keeps Ray
    # from writing one to the home directory.
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    arguments: dict[str, object] = {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": config.num_cpus or os.cpu_count(),
    }
    if config.object_store_mb is not None:
        arguments["object_store_memory"] = config.object_store_mb << 20
    return arguments


def _import_paths() -> str:
    """Return the absolute import paths of this process, as a value of PYTHONPATH that a local cluster inherits.

    Setting them in the runtime environment of the job would delay its first tasks by a second, because Ray could not
    use the workers that it has prestarted.
    """
    paths = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    unique_paths = dict.fromkeys([os.getcwd(), *paths, str(Path(distilray.__file__).parents[1])])
    return os.pathsep.join(unique_paths)


def _set_up_data() -> None:
    """Disable the progress bars of Ray Data and keep its results in order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
