"""Rows on their way from a training run to its trackers.

Each tracker works in a thread of its own, so that a slow or dead server neither stalls nor ends the training. One that
fails says so once in the log and is left out from then on.
"""

import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from numbers import Real
from typing import Any

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.reporting.trackers.backends import Mlflow, Row, Run, TensorBoard, Tracker, Wandb

_CLOSE_S = 60.0
# Variables that the user has set are kept. No usage reports from closed networks; MLflow asks for consent to a folder
# of files, and prints the URL of the run together with a login in MLFLOW_TRACKING_URI.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOGIN, _QUERY = re.compile(r"://[^/\s]+@"), re.compile(r"(://[^\s?]*)\?\S+")
_SECRET_NAME = re.compile(r"(?i)(^|_)(key|token|secret|password)s?$")
_LOG = logging.getLogger(__name__)


class Trackers:
    """The open trackers of a run. As a context manager it marks the run as failed when an exception ends the block."""

    def __init__(self, feeds: Sequence["_Feed"], clock: Callable[[], float]) -> None:
        self._feeds, self._clock = feeds, clock

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands the finite numbers among `values` to every tracker, and returns at once; `/` in a name makes groups."""
        numbers = {name: float(value) for name, value in values.items() if _is_finite_number(value)}
        for feed in self._feeds:
            feed.put(Row(step, self._clock(), numbers))

    def close(self, *, failed: bool = False) -> None:
        """Waits, a minute at most, until the trackers have what was logged, and closes them."""
        for feed in self._feeds:
            feed.put(failed)
        deadline = time.monotonic() + _CLOSE_S
        for feed in self._feeds:
            feed.join(deadline - time.monotonic())

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def check_trackers(names: Sequence[str], run_uri: str) -> None:
    """Raises `InputError` where `open_trackers` would; nothing is opened."""
    for name in names:
        if name not in _TRACKERS:
            raise InputError(f"tracker '{name}' is not one of {', '.join(_TRACKERS)}")
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        package = _TRACKERS[name][0]
        try:
            import_module(package)
        except ImportError:
            needs = f"tracker '{name}' needs the package {package}"
            raise InputError(f"{needs}: pip install {_DISTRIBUTIONS.get(package, package)}") from None
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
    """Opens trackers for a run, or opens them again when the run goes on.

    Args:
        names: of `tensorboard` (files under `run_uri`/tensorboard, in an object store at most a minute old), `mlflow`
            (server of MLFLOW_TRACKING_URI, else the folder `run_uri`/mlruns; experiment of MLFLOW_EXPERIMENT_NAME) and
            `wandb` (project of WANDB_PROJECT).
        config: is shown as the parameters of the run, without logins in URIs.
        start_step: the steps done; what TensorBoard has of later ones disappears.
        clock: seconds since the epoch.

    Raises:
        InputError: an unknown name, a package that is missing, or no place for MLflow to write to.
    """
    check_trackers(names, run_uri)
    run = Run(run_uri, run_name, _flat(config), start_step, clock())
    return Trackers([_Feed(name, run, _TRACKERS[name][1]) for name in dict.fromkeys(names)], clock)


class _Feed:
    """Rows on their way to one tracker; its thread ends with the tracker, or with its first error."""

    def __init__(self, name: str, run: Run, create: Callable[[Run], Tracker]) -> None:
        self._name, self._run, self._create = name, run, create
        self._rows: queue.SimpleQueue[Row | bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, row: Row | bool) -> None:
        """A row, or at the end whether the run has failed."""
        if self._thread.is_alive():
            self._rows.put(row)

    def join(self, timeout_s: float) -> None:
        self._thread.join(max(0.0, timeout_s))
        if self._thread.is_alive():
            _LOG.warning("tracker %s has not closed in time and may lack the last rows", self._name)

    def _work(self) -> None:
        try:
            tracker = self._create(self._run)
            while isinstance(row := self._rows.get(), Row):
                tracker.log(row)
            tracker.close(failed=row)
        except Exception as error:
            _LOG.warning("tracker %s: %s; the run goes on without it", self._name, _told(error))


# Name -> the package that it needs, and its class.
_TRACKERS: Mapping[str, tuple[str, Callable[[Run], Tracker]]] = {
    "tensorboard": ("tensorboardX", TensorBoard),
    "mlflow": ("mlflow", Mlflow),
    "wandb": ("wandb", Wandb),
}

# What to install for a package that is not named like it.
_DISTRIBUTIONS = {"mlflow": "mlflow-skinny"}


def _is_finite_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots; what is no number is text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float) else _LOGIN.sub("://***@", str(value))
    return flat


def _told(error: Exception) -> str:
    """Kind and first line of an error, without logins and queries of URLs and without secrets of the environment."""
    text = f"{type(error).__name__}: {error}"
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 4:
            text = text.replace(value, "***")
    return _QUERY.sub(r"\1?***", _LOGIN.sub("://***@", text)).splitlines()[0][:200]
