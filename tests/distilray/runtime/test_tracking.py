import base64
import json
import logging
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.tracking import (
    MLFLOW_RUN_ID_FILE,
    TENSORBOARD_FOLDER,
    check_trackers,
    open_trackers,
)

CONFIG = {"seed": 56, "optimizer": {"learning_rate": 5e-4, "betas": [0.9, 0.98]}, "shards_dir": "s3://me:pw@data/x"}


class Clock:
    """Seconds since the epoch that a test sets."""

    def __init__(self, now=1_760_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    # They are set where a tracker is opened, and must not stay after the test.
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


@pytest.fixture
def run_uri(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package: what it was asked to open, log and finish."""
    module, calls = ModuleType("wandb"), SimpleNamespace(init={}, rows=[], exit_codes=[])

    def init(**arguments):
        calls.init = arguments
        return SimpleNamespace(
            log=lambda values, step: calls.rows.append((step, values)),
            finish=lambda exit_code: calls.exit_codes.append(exit_code),
        )

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def opened(names, run_uri, *, start_step=0, clock=None):
    clock = clock or Clock()
    return open_trackers(names, run_uri=run_uri, run_name="distil 1", config=CONFIG, start_step=start_step, clock=clock)


def events_of(data):
    """The events of a file: length, its checksum, the event and its checksum, again and again."""
    events = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def event_files(run_uri):
    return storage.list_files(storage.join(run_uri, TENSORBOARD_FOLDER))


def events_in(run_uri):
    return [event for file in event_files(run_uri) for event in events_of(storage.read_bytes(file))]


def scalars(events):
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def mlflow_client(run_uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=Path(run_uri, "mlruns").as_uri())


def mlflow_run(run_uri):
    return mlflow_client(run_uri).get_run(Path(run_uri, MLFLOW_RUN_ID_FILE).read_text())


def test_tensorboard_gets_every_logged_value_at_its_step(run_uri):
    with opened(["tensorboard"], run_uri) as trackers:
        trackers.log(50, {"train/loss": 2.5, "train/mfu": 0.25})
        trackers.log(100, {"train/loss": 1.5})
    wanted = [(50, "train/loss", 2.5), (50, "train/mfu", 0.25), (100, "train/loss", 1.5)]
    assert scalars(events_in(run_uri)) == wanted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "text", None, True])
def test_only_finite_numbers_are_tracked(run_uri, value):
    with opened(["tensorboard"], run_uri) as trackers:
        trackers.log(1, {"loss": 1.0, "other": value})
    assert scalars(events_in(run_uri)) == [(1, "loss", 1.0)]


def test_an_event_has_the_time_at_which_it_was_logged(run_uri):
    clock = Clock()
    with opened(["tensorboard"], run_uri, clock=clock) as trackers:
        clock.now += 90.5
        trackers.log(1, {"loss": 1.0})
    assert events_in(run_uri)[-1].wall_time == clock.now


def test_tensorboard_drops_the_steps_that_a_resumed_run_writes_again(run_uri):
    clock = Clock()
    for start_step in (0, 40):
        with opened(["tensorboard"], run_uri, start_step=start_step, clock=clock) as trackers:
            trackers.log(start_step + 10, {"loss": 1.0})
        clock.now += 100
    starts = [event.step for event in events_in(run_uri) if event.session_log.status == SessionLog.START]
    assert starts == [1, 41]  # of what lies before it in the order of the files, later steps are forgotten


def test_a_resumed_run_leaves_the_events_of_the_attempt_before(run_uri):
    clock = Clock()
    for start_step in (0, 40):
        with opened(["tensorboard"], run_uri, start_step=start_step, clock=clock) as trackers:
            trackers.log(start_step + 10, {"loss": 1.0})
        clock.now += 100
    assert [step for step, _, _ in scalars(events_in(run_uri))] == [10, 50]


def test_an_object_store_has_all_events_when_the_trackers_are_closed(bucket):
    uri = f"{bucket}/run"
    with opened(["tensorboard"], uri) as trackers:
        for step in (1, 2, 3):
            trackers.log(step, {"loss": float(step)})
    assert scalars(events_in(uri)) == [(step, "loss", float(step)) for step in (1, 2, 3)]


def test_an_object_store_is_written_to_once_a_minute_and_at_the_end(bucket, monkeypatch):
    uploads, clock = [], Clock()
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data: uploads.append(scalars(events_of(data))[-1][0]))
    with opened(["tensorboard"], f"{bucket}/run", clock=clock) as trackers:
        for seconds in range(0, 150, 10):
            clock.now = 1_760_000_000.0 + seconds
            trackers.log(seconds, {"loss": 1.0})
    assert uploads == [0, 60, 120, 140]


def test_mlflow_gets_every_logged_value_at_its_step(run_uri):
    with opened(["mlflow"], run_uri) as trackers:
        trackers.log(50, {"train/loss": 2.5})
        trackers.log(100, {"train/loss": 1.5})
    history = mlflow_client(run_uri).get_metric_history(mlflow_run(run_uri).info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(50, 2.5), (100, 1.5)]


def test_mlflow_shows_the_config_under_flat_keys_without_logins(run_uri):
    opened(["mlflow"], run_uri).close()
    assert mlflow_run(run_uri).data.params == {
        "seed": "56",
        "optimizer.learning_rate": "0.0005",
        "optimizer.betas": "[0.9, 0.98]",
        "shards_dir": "s3://***@data/x",
    }


def test_a_resumed_run_continues_the_mlflow_run(run_uri):
    for start_step in (0, 40):
        with opened(["mlflow"], run_uri, start_step=start_step) as trackers:
            trackers.log(start_step + 10, {"loss": 1.0})
    run_id = mlflow_run(run_uri).info.run_id
    assert [metric.step for metric in mlflow_client(run_uri).get_metric_history(run_id, "loss")] == [10, 50]


def test_a_run_that_ends_with_an_exception_has_failed_in_mlflow(run_uri):
    with pytest.raises(RuntimeError), opened(["mlflow"], run_uri):
        raise RuntimeError
    assert mlflow_run(run_uri).info.status == "FAILED"


def test_a_run_that_ends_well_has_finished_in_mlflow(run_uri):
    opened(["mlflow"], run_uri).close()
    assert mlflow_run(run_uri).info.status == "FINISHED"


def test_mlflow_needs_a_server_when_the_run_folder_is_in_an_object_store(bucket):
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        check_trackers(["mlflow"], f"{bucket}/run")


class MlflowServer(BaseHTTPRequestHandler):
    """Answers every request of a client that logs one run."""

    def log_message(self, *_): ...

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.logins.add(self.headers["authorization"])
        info = {"run_id": "r", "experiment_id": "1", "status": "RUNNING", "start_time": 1, "lifecycle_stage": "active"}
        body = json.dumps({"experiment": {"experiment_id": "1"}, "run": {"info": info, "data": {}}, "run_info": info})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET


def test_a_login_in_the_uri_of_mlflow_is_sent_and_not_printed(run_uri, monkeypatch, capfd, caplog):
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT")
    with ThreadingHTTPServer(("127.0.0.1", 0), MlflowServer) as server:
        server.logins = set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:planted@127.0.0.1:{server.server_port}")
        with opened(["mlflow"], run_uri) as trackers:
            trackers.log(1, {"loss": 1.0})
        server.shutdown()
    assert server.logins == {f"Basic {base64.b64encode(b'me:planted').decode()}"}
    assert "planted" not in "".join(capfd.readouterr()) + caplog.text


def test_wandb_gets_every_logged_value_at_its_step(run_uri, wandb):
    with opened(["wandb"], run_uri) as trackers:
        trackers.log(50, {"loss": 2.5})
        trackers.log(100, {"loss": 1.5})
    assert wandb.rows == [(50, {"loss": 2.5}), (100, {"loss": 1.5})]


def test_wandb_finds_the_run_again_by_an_id_that_stays_the_same(run_uri, wandb):
    ids = []
    for start_step in (0, 40):
        opened(["wandb"], run_uri, start_step=start_step).close()
        ids.append((wandb.init["id"], wandb.init["resume"]))
    assert ids[0] == ids[1] == (ids[0][0], "allow")


def test_runs_of_one_name_in_two_folders_are_two_runs_of_wandb(tmp_path, wandb):
    ids = set()
    for folder in ("one", "two"):
        opened(["wandb"], str(tmp_path / folder)).close()
        ids.add(wandb.init["id"])
    assert len(ids) == 2


@pytest.mark.parametrize(("variable", "project"), [(None, "distilray"), ("mine", "mine")])
def test_the_environment_chooses_the_project_of_wandb(run_uri, wandb, monkeypatch, variable, project):
    if variable:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    opened(["wandb"], run_uri).close()
    assert wandb.init["project"] == project


def test_the_exit_code_in_wandb_says_that_a_run_failed(run_uri, wandb):
    with pytest.raises(RuntimeError), opened(["wandb"], run_uri):
        raise RuntimeError
    assert wandb.exit_codes == [1]


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("tensorboard", "tensorboardX", "tensorboardX"),
        ("mlflow", "mlflow", "mlflow-skinny"),
        ("wandb", "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_reported_in_one_line_with_the_fix(run_uri, monkeypatch, name, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as raised:
        opened([name], run_uri)
    assert str(raised.value) == f"tracker '{name}' needs the package {package}: pip install {install}"


def test_an_unknown_tracker_is_reported_with_the_known_ones(run_uri):
    with pytest.raises(InputError, match="'aim' is not one of tensorboard, mlflow, wandb"):
        opened(["aim"], run_uri)


def test_a_run_without_trackers_writes_nothing(run_uri):
    with opened([], run_uri) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert not Path(run_uri).exists()


def break_wandb(monkeypatch, message):
    def fail(**_):
        raise ConnectionError(message)

    monkeypatch.setattr(sys.modules["wandb"], "init", fail)


def test_a_tracker_that_fails_leaves_the_others_as_they_are(run_uri, wandb, monkeypatch):
    break_wandb(monkeypatch, "no route")
    with opened(["wandb", "tensorboard"], run_uri) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert scalars(events_in(run_uri)) == [(1, "loss", 1.0)]


def test_a_tracker_that_fails_warns_once(run_uri, wandb, monkeypatch, caplog):
    break_wandb(monkeypatch, "no route")
    with opened(["wandb"], run_uri) as trackers:
        for step in range(5):
            trackers.log(step, {"loss": 1.0})
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "tracker wandb: ConnectionError: no route; the run continues without it")
    ]


def test_a_warning_holds_no_secret(run_uri, wandb, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "planted-1")
    break_wandb(monkeypatch, "key planted-1 at https://me:planted-2@host/api?token=planted-3 refused")
    opened(["wandb"], run_uri).close()
    assert "key *** at https://***@host/api?*** refused" in caplog.text
    assert "planted" not in caplog.text


def test_a_tracker_that_hangs_does_not_hold_up_the_training(run_uri, wandb, monkeypatch):
    logged, in_time = threading.Event(), []
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **_: in_time.append(logged.wait(10)))
    trackers = opened(["wandb"], run_uri)
    trackers.log(1, {"loss": 1.0})
    logged.set()
    trackers.close()
    assert in_time == [True]
