"""Experiment trackers in addition to `metrics.jsonl`: TensorBoard files, MLflow, Weights & Biases.

Each tracker runs in its own thread, so that a slow or dead server cannot stall or stop training. A tracker that fails
is logged once and then ignored. Packages are imported when a tracker is opened.
"""

import functools
import hashlib
import logging
import math
import os
import queue
import re
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.signals import start_in_thread

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_RUN_ID_FILE = "mlflow_run_id.txt"
_UPLOAD_S, _CLOSE_S = 60.0, 60.0
_PROJECT = "distilray"
_PARAMS_PER_REQUEST, _MAX_PARAM_CHARS = 100, 500  # limits of MLflow servers, including old versions
# Defaults; variables set by the user take precedence. Usage reports are off because clusters may be in closed networks.
# MLflow requires consent to a file store, and prints the URL of the run with the login in MLFLOW_TRACKING_URI.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CREDENTIALS, _QUERY = re.compile(r"://[^/\s]+@"), re.compile(r"(://[^\s?]*)\?\S+")
_SECRET_NAME = re.compile(r"(?i)(^|_)(key|token|secret|password)s?$")
_LOG = logging.getLogger(__name__)


class Trackers:
    """Open trackers of a run. As a context manager, mark the run as failed if the block raises an exception."""

    def __init__(self, names: Sequence[str], run: "TrackedRun", clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queues: dict[str, queue.SimpleQueue[LogEntry | bool]] = {name: queue.SimpleQueue() for name in names}
        self._threads = {
            start_in_thread(functools.partial(_feed, name, run, entries), name=f"tracker-{name}"): name
            for name, entries in self._queues.items()
        }

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the finite numbers among `values` to every tracker without waiting; `/` in a name creates a group."""
        numbers = {name: float(value) for name, value in values.items() if _is_finite_number(value)}
        self._put(LogEntry(step, self._clock(), numbers))

    def close(self, *, failed: bool = False) -> None:
        """Wait up to a minute for the trackers to process all entries, and close them."""
        self._put(failed)
        for thread in wait(self._threads, timeout=_CLOSE_S).not_done:
            _LOG.warning("tracker %s did not close in time and may lack the last rows", self._threads[thread])

    def _put(self, entry: "LogEntry | bool") -> None:
        for thread, name in self._threads.items():
            if not thread.done():
                self._queues[name].put(entry)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def check_trackers(names: Sequence[str], run_uri: str) -> None:
    """Check the names and packages of trackers without opening them.

    Raises:
        InputError: see `open_trackers`.
    """
    for name in names:
        if name not in _TRACKERS:
            raise InputError(f"tracker '{name}' is not one of {', '.join(_TRACKERS)}")
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        package = _TRACKERS[name][0]
        try:
            import_module(package)
        except ImportError:
            distribution = _DISTRIBUTIONS.get(package, package)
            raise InputError(f"tracker '{name}' needs the package {package}: pip install {distribution}") from None
        if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI") and not storage.is_local(run_uri):
            raise InputError("tracker 'mlflow': the run folder is in an object store; set MLFLOW_TRACKING_URI")


def open_trackers(
    names: Sequence[str],
    *,
    run_uri: str,
    run_name: str,
    config: Mapping[str, Any],
    start_step: int,
    clock: Callable[[], float] = time.time,
) -> Trackers:
    """Open trackers for a new or resumed run.

    Args:
        names: any of `tensorboard` (files in `run_uri`/tensorboard, uploaded to an object store once a minute),
            `mlflow` (server MLFLOW_TRACKING_URI, or the folder `run_uri`/mlruns; experiment MLFLOW_EXPERIMENT_NAME) and
            `wandb` (project WANDB_PROJECT).
        config: shown as the parameters of the run, without credentials in URIs.
        start_step: number of completed steps; TensorBoard discards later steps of earlier attempts.
        clock: returns seconds since the epoch.

    Raises:
        InputError: unknown tracker, missing package, or no location for MLflow to write to.
    """
    check_trackers(names, run_uri)
    run = TrackedRun(run_uri, run_name, _flatten(config), start_step, clock())
    return Trackers(tuple(dict.fromkeys(names)), run, clock)


@dataclass(frozen=True)
class TrackedRun:
    """The run that is tracked.

    Attributes:
        uri: run folder.
        config: config with flat keys such as `optimizer.learning_rate`.
        start_step: number of steps completed before this attempt.
        opened: start of this attempt, in seconds since the epoch.
    """

    uri: str
    name: str
    config: Mapping[str, Any]
    start_step: int
    opened: float


class LogEntry(NamedTuple):
    """Finite values of a step and the time at which they were logged, in seconds since the epoch."""

    step: int
    time: float
    values: Mapping[str, float]


class TensorBoard:
    """Event file of one attempt, written without the thread of tensorboardX, which would hide errors.

    TensorBoard reads the files in the order of their names, which start with the time.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._events = import_module("tensorboardX.proto.event_pb2")
        self._summaries = import_module("tensorboardX.proto.summary_pb2")
        name = f"events.out.tfevents.{run.opened:.3f}.{socket.gethostname()}.{run.start_step}"
        self._target, self._uploaded = storage.join(run.uri, TENSORBOARD_FOLDER, name), -math.inf
        self._temporary = None if storage.is_local(run.uri) else tempfile.TemporaryDirectory(prefix="tensorboard-")
        self._file = Path(self._temporary.name, name) if self._temporary else storage.local_path(self._target)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._writer = import_module("tensorboardX.record_writer").RecordWriter(str(self._file))
        self._write(wall_time=run.opened, file_version="brain.Event:2")
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        # Makes TensorBoard discard the events of older files from this step on.
        self._write(wall_time=run.opened, step=run.start_step + 1, session_log=start)

    def log(self, entry: LogEntry) -> None:
        values = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in entry.values.items()]
        self._write(wall_time=entry.time, step=entry.step, summary=self._summaries.Summary(value=values))
        if entry.time - self._uploaded >= _UPLOAD_S:
            self._upload()
            self._uploaded = entry.time

    def close(self, *, failed: bool) -> None:
        self._writer.close()
        self._upload()
        if self._temporary:
            self._temporary.cleanup()

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._events.Event(**fields).SerializeToString())
        self._writer.flush()

    def _upload(self) -> None:
        if self._temporary:
            storage.write_bytes(self._target, self._file.read_bytes())


class Mlflow:
    """Run on an MLflow server or in a folder. Its id is in the run folder, so that a resumed run continues it."""

    def __init__(self, run: TrackedRun) -> None:
        self._entities = import_module("mlflow.entities")
        server = os.environ.get("MLFLOW_TRACKING_URI") or storage.local_path(storage.join(run.uri, "mlruns")).as_uri()
        self._client = import_module("mlflow").MlflowClient(tracking_uri=server)
        id_file = storage.join(run.uri, MLFLOW_RUN_ID_FILE)
        if storage.exists(id_file):
            self._id = storage.read_bytes(id_file).decode().strip()
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._create(run)
            storage.write_bytes(id_file, self._id.encode())

    def _create(self, run: TrackedRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        existing = self._client.get_experiment_by_name(name)
        experiment = existing.experiment_id if existing else self._client.create_experiment(name)
        created: str = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [self._entities.Param(key, str(value)[:_MAX_PARAM_CHARS]) for key, value in run.config.items()]
        for start in range(0, len(params), _PARAMS_PER_REQUEST):
            self._client.log_batch(created, params=params[start : start + _PARAMS_PER_REQUEST])
        return created

    def log(self, entry: LogEntry) -> None:
        now = int(entry.time * 1000)
        metrics = [self._entities.Metric(key, value, now, entry.step) for key, value in entry.values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


class Wandb:
    """Run of Weights & Biases. A resumed run repeats the values of some steps, of which W&B keeps the first."""

    def __init__(self, run: TrackedRun) -> None:
        suffix = hashlib.sha256(run.uri.encode()).hexdigest()[:8]  # distinguishes runs of one name in two folders
        self._run = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=run.name,
            id=f"{re.sub('[^A-Za-z0-9_-]', '-', run.name)[:80]}-{suffix}",
            resume="allow",
            config=dict(run.config),
            dir=str(storage.local_path(run.uri)) if storage.is_local(run.uri) else None,
        )

    def log(self, entry: LogEntry) -> None:
        self._run.log(dict(entry.values), step=entry.step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _feed(name: str, run: TrackedRun, entries: "queue.SimpleQueue[LogEntry | bool]") -> None:
    """Pass log entries to a tracker until its first error, or until a bool arrives: whether the run failed."""
    try:
        tracker = _TRACKERS[name][1](run)
        while isinstance(entry := entries.get(), LogEntry):
            tracker.log(entry)
        tracker.close(failed=entry)
    except Exception as error:
        _LOG.warning("tracker %s: %s; the run continues without it", name, _without_secrets(error))


# Package and class by name.
_TRACKERS: Mapping[str, tuple[str, Callable[[TrackedRun], TensorBoard | Mlflow | Wandb]]] = {
    "tensorboard": ("tensorboardX", TensorBoard),
    "mlflow": ("mlflow", Mlflow),
    "wandb": ("wandb", Wandb),
}

# Distributions whose name differs from that of the package.
_DISTRIBUTIONS = {"mlflow": "mlflow-skinny"}


def _is_finite_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys to dotted keys, and convert values other than numbers to text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = (
                value if isinstance(value, int | float) else _CREDENTIALS.sub("://***@", str(value))
            )
    return flat


def _without_secrets(error: Exception) -> str:
    """Return type and first line of an error, without URL credentials, URL queries and secrets of the environment."""
    text = f"{type(error).__name__}: {error}"
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 4:
            text = text.replace(value, "***")
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("://***@", text)).splitlines()[0][:200]
