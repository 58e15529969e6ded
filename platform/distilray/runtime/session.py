"""The Ray session of a job: the cluster it was submitted to, or a local one that ends with it."""

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
from distilray.runtime.environment import environment, inside_cluster, worker_setup_hook
from distilray.runtime.resources import Need, ensure_capacity
from distilray.runtime.run_owner import check_visible

# Values for every session; what the user has set stays. No usage reports from closed networks; the reasons of the rest
# are in `jobs/runtime_env.yaml`.
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

# Labels of the machines of a cluster that take data work, `role=data`: the cluster says so to its jobs, which run
# everywhere. Ray alone would fill the CPUs of a machine with GPUs too, under the feet of training.
DATA_LABELS = "DISTILRAY_DATA_LABELS"
_INPUT_ERROR = "input_error"  # column of what a task returns in place of its result


@contextlib.contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connects to the cluster of the environment, or runs a local one until the block ends.

    Inside a block that has a session already it does nothing, so that a line of jobs shares one.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    on_terminate = signal.getsignal(signal.SIGTERM)
    with environment({"PYTHONPATH": _import_paths()}):
        ray.init(**_cluster_arguments(config), log_to_driver=inside_cluster(), logging_level=logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray sets a handler of its own, which ends without a word
    _set_up_data()
    try:
        yield
    finally:
        ray.shutdown()


def data_labels() -> dict[str, str] | None:
    """The labels that a machine must have to be given data work; None where any machine will do.

    Raises:
        InputError: `DISTILRAY_DATA_LABELS` is no list of `key=value`, with commas between.
    """
    given = os.environ.get(DATA_LABELS, "")
    if not given or not inside_cluster():
        return None
    pairs = [pair.strip().partition("=") for pair in given.split(",")]
    if not all(key and value for key, _, value in pairs):
        raise InputError(f"{DATA_LABELS}={given!r}: write key=value, with commas between, as in role=data")
    return {key: value for key, _, value in pairs}


def run_tasks(
    items: Sequence[dict[str, Any]],
    task: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    job: str,
    run_dir: str,
    num_cpus: int = 1,
    num_gpus: float = 0.0,
    remedy: str = "give the local cluster more CPUs (ray.num_cpus)",
) -> Iterator[Any]:
    """Yield the results of a task for each item, each in a Ray Data task of its own, in the order of completion.

    Tasks without a GPU run on the nodes of `data_labels`. Inside a cluster this waits until there is room for a task.

    Args:
        items: arguments of the tasks, as values that Arrow holds; a few numbers and names.
        task: item -> its result, of the same kind. It runs on a worker; an item may run twice when a node is lost.
        job: its name, for what is reported while it waits.
        run_dir: the folder of the run, which all nodes must share.
        num_cpus: CPUs of each task without a GPU.
        num_gpus: GPUs of each task; one with a GPU, or a part of one, has one CPU besides.
        remedy: the settings that lower what a task needs.

    Raises:
        InputError: raised by a task, or a task can never run.
    """
    if not items:
        return
    labels = None if num_gpus else data_labels()
    need = Need("task", remedy, cpus=0 if num_gpus else num_cpus, gpus=num_gpus, labels=labels or {})
    ensure_capacity(need, job=job, run_dir=run_dir)
    options = ray.data.DataContext.get_current().execution_options
    ordered, selected = options.preserve_order, options.label_selector
    options.preserve_order, options.label_selector = False, labels
    try:
        dataset = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
        # Ray Data warns when both are given. A block holds one item.
        resources = {"num_gpus": num_gpus} if num_gpus else {"num_cpus": num_cpus}
        run = functools.partial(_run_on_batch, task=task, run_dir=run_dir if inside_cluster() else None)
        results = dataset.map_batches(run, batch_size=1, batch_format="pyarrow", **resources)
        yield from result_rows(results)
    finally:
        options.preserve_order, options.label_selector = ordered, selected


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
    """Return what a task returns in place of its result: Ray Data drops the cause of an exception that it raises.

    Raises:
        Exception: the error itself, when no `InputError` is behind it.
    """
    cause = find_input_error(error)
    if cause is None:
        raise error
    return pa.Table.from_pylist([{_INPUT_ERROR: str(cause)}])


def is_input_error(batch: pa.Table) -> bool:
    """Return whether a table is one of `input_error_table`."""
    return _INPUT_ERROR in batch.column_names


def result_rows(results: ray.data.Dataset) -> Iterator[Any]:
    """Yield the rows that tasks return.

    Raises:
        InputError: a task returned one.
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
                f"RAY_ADDRESS={address}: the address of a dashboard, which takes submitted jobs only; submit the job "
                "(python -m jobs.submit), or unset RAY_ADDRESS to run it on this machine"
            )
        # The address and the rest of the runtime environment come from the job.
        hook = worker_setup_hook(os.environ)
        return {"runtime_env": {"worker_process_setup_hook": hook}} if hook else {}
    # Ray guards a local cluster with a token, since its ports listen on every interface. This one lives as long as the
    # cluster; without it Ray would write one into the user's home.
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
    """Where this process finds its modules, as absolute paths, for PYTHONPATH.

    A local cluster inherits it. As a runtime environment of the job it would cost its first tasks a second, since
    workers that Ray has started ahead would not have it.
    """
    given = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys([os.getcwd(), *given, str(Path(distilray.__file__).parents[1])]))  # each once


def _set_up_data() -> None:
    """Ray Data without progress bars of its own, and with its results in order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
