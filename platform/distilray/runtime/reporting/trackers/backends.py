"""The experiment trackers themselves: what each does with a row. Their packages are imported when one is opened."""

import hashlib
import math
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distilray.runtime import storage

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_RUN_ID_FILE = "mlflow_run_id.txt"
_UPLOAD_S = 60.0
_PROJECT = "distilray"
_PARAMS_PER_REQUEST, _PARAM_CHARACTERS = 100, 500  # limits of MLflow servers, also of old ones


@dataclass(frozen=True)
class Run:
    """The run that is tracked.

    Attributes:
        uri: its folder.
        config: with flat keys, as `optimizer.learning_rate`.
        start_step: the steps done before this attempt.
        opened: when the attempt began, in seconds since the epoch.
    """

    uri: str
    name: str
    config: Mapping[str, Any]
    start_step: int
    opened: float


class Row(NamedTuple):
    """Finite values of a step, and when they were logged, in seconds since the epoch."""

    step: int
    time: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """What is open from its creation until `close`. Any method may raise any exception."""

    def log(self, row: Row) -> None:
        """Takes a row."""

    def close(self, *, failed: bool) -> None:
        """Ends the run there, for better or worse."""


class TensorBoard:
    """An event file of each attempt, written without tensorboardX's own thread, which would hide errors.

    TensorBoard reads the files in the order of their names, and these begin with the time.
    """

    def __init__(self, run: Run) -> None:
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
        # TensorBoard drops what older files have from this step on.
        self._write(wall_time=run.opened, step=run.start_step + 1, session_log=start)

    def log(self, row: Row) -> None:
        values = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in row.values.items()]
        self._write(wall_time=row.time, step=row.step, summary=self._summaries.Summary(value=values))
        if row.time - self._uploaded >= _UPLOAD_S:
            self._upload()
            self._uploaded = row.time

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
    """A run of an MLflow server or folder; its id lies in the run folder, so that the run goes on with it."""

    def __init__(self, run: Run) -> None:
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

    def _create(self, run: Run) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        created: str = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [self._entities.Param(key, str(value)[:_PARAM_CHARACTERS]) for key, value in run.config.items()]
        for at in range(0, len(params), _PARAMS_PER_REQUEST):
            self._client.log_batch(created, params=params[at : at + _PARAMS_PER_REQUEST])
        return created

    def log(self, row: Row) -> None:
        now = int(row.time * 1000)
        metrics = [self._entities.Metric(key, value, now, row.step) for key, value in row.values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


class Wandb:
    """A run of Weights & Biases. A resumed one logs the same values for some steps again; the first are kept."""

    def __init__(self, run: Run) -> None:
        place = hashlib.sha256(run.uri.encode()).hexdigest()[:8]  # two folders may hold runs of one name
        self._run = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=run.name,
            id=f"{re.sub('[^A-Za-z0-9_-]', '-', run.name)[:80]}-{place}",
            resume="allow",
            config=dict(run.config),
            dir=str(storage.local_path(run.uri)) if storage.is_local(run.uri) else None,
        )

    def log(self, row: Row) -> None:
        self._run.log(dict(row.values), step=row.step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
