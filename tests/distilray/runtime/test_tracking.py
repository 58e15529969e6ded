import base64
import json
import logging
import re
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from distilray.errors import InputError
from distilray.runtime import storage, tracking
from distilray.runtime.tracking import check_trackers, open_trackers
from tests.tiny.clock import Clock

START = 1_760_000_000.0
CONFIG = {"seed": 56, "optimizer": {"learning_rate": 5e-4, "betas": [0.9, 0.98]}, "shards_dir": "s3://me:pw@data/x"}


@pytest.fixture
def clock():
    return Clock(START)


@pytest.fixture(autouse=True)
def default_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in tracking._ENVIRONMENT:  # removed again after the test
        monkeypatch.setenv(name, "true")


@pytest.fixture
def run_uri(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture(autouse=True)
def wandb(monkeypatch):
    """Replacement of the package, which is not installed."""
    package = Mock()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def opened(names, run_uri, *, start_step=0, clock=None, config=CONFIG):
    options = {"run_name": "distil 1", "config": config, "start_step": start_step, "clock": clock or Clock(START)}
    return open_trackers(names, run_uri=run_uri, **options)


def events_of(data):
    """Read an event file: for each event its length, a checksum, the event, and another checksum."""
    events = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def events_in(run_uri):
    files = storage.list_files(storage.join(run_uri, "tensorboard"))
    return [event for file in files for event in events_of(storage.read_bytes(file))]


def scalars(events):
    return [(event.step, value.simple_value, event.wall_time) for event in events for value in event.summary.value]


def open_mlflow(run_uri):
    """Return the client and the run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=Path(run_uri, "mlruns").as_uri())
    return client, client.get_run(Path(run_uri, "mlflow_run_id.txt").read_text())


def tracked(name, run_uri, wandb):
    """Return step, value and time of each tracked value."""
    if name == "tensorboard":
        return scalars(events_in(run_uri))
    if name == "mlflow":
        client, run = open_mlflow(run_uri)
        history = client.get_metric_history(run.info.run_id, "train/loss")
        return [(metric.step, metric.value, metric.timestamp / 1000) for metric in history]
    calls = wandb.init.return_value.log.call_args_list
    return [(call.kwargs["step"], value, None) for call in calls for value in call.args[0].values()]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_every_finite_number_is_tracked_once_with_step_and_time_also_after_a_resume(run_uri, wandb, clock, name):
    others = {"a": float("nan"), "b": float("inf"), "c": "text", "d": None, "e": True}
    for start_step, loss in ((0, 2.5), (40, 1.5)):
        with opened([name, name], run_uri, start_step=start_step, clock=clock) as trackers:
            clock.now += 90.5
            trackers.log(start_step + 10, {"train/loss": loss, **others})
    times = [None, None] if name == "wandb" else [START + 90.5, START + 181]
    assert tracked(name, run_uri, wandb) == [(10, 2.5, times[0]), (50, 1.5, times[1])]


def test_tensorboard_discards_the_steps_that_a_resumed_run_repeats(run_uri, clock):
    for start_step in (0, 40):
        opened(["tensorboard"], run_uri, start_step=start_step, clock=clock).close()
        clock.now += 100
    starts = [event.step for event in events_in(run_uri) if event.session_log.status == SessionLog.START]
    assert starts == [1, 41]  # TensorBoard drops later steps of the files before


def test_an_object_store_is_written_once_a_minute_and_at_the_end(bucket, monkeypatch, clock):
    upload = Mock(wraps=storage.write_bytes)
    monkeypatch.setattr(storage, "write_bytes", upload)
    with opened(["tensorboard"], f"{bucket}/run", clock=clock) as trackers:
        for seconds in range(0, 150, 10):
            clock.now = START + seconds
            trackers.log(seconds, {"loss": 1.0})
    assert [scalars(events_of(call.args[1]))[-1][0] for call in upload.call_args_list] == [0, 60, 120, 140]
    assert [step for step, *_ in scalars(events_in(f"{bucket}/run"))] == list(range(0, 150, 10))


def test_mlflow_shows_the_config_under_flat_keys_without_credentials(run_uri):
    many = {f"{number:03d}": number for number in range(100)}  # one request takes 100 parameters
    opened(["mlflow"], run_uri, config={**CONFIG, "text": "x" * 501, "many": many}).close()
    _, run = open_mlflow(run_uri)
    assert run.data.params == {
        "seed": "56",
        "optimizer.learning_rate": "0.0005",
        "optimizer.betas": "[0.9, 0.98]",
        "shards_dir": "s3://***@data/x",
        "text": "x" * 500,
        **{f"many.{key}": str(value) for key, value in many.items()},
    }
    assert run.info.run_name == "distil 1"


@pytest.mark.parametrize(
    ("name", "variables"), [("distilray", []), ("mine", ["WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"])]
)
def test_project_and_experiment_are_named_by_the_environment(run_uri, wandb, monkeypatch, name, variables):
    for variable in variables:
        monkeypatch.setenv(variable, name)
    opened(["wandb", "mlflow"], run_uri).close()
    client, run = open_mlflow(run_uri)
    assert client.get_experiment(run.info.experiment_id).name == wandb.init.call_args.kwargs["project"] == name


def test_the_state_of_a_run_is_tracked(run_uri, wandb):
    finish = wandb.init.return_value.finish
    with pytest.raises(RuntimeError), opened(["mlflow", "wandb"], run_uri):
        raise RuntimeError
    assert (open_mlflow(run_uri)[1].info.status, finish.call_args.kwargs) == ("FAILED", {"exit_code": 1})
    opened(["mlflow", "wandb"], run_uri).close()
    assert (open_mlflow(run_uri)[1].info.status, finish.call_args.kwargs) == ("FINISHED", {"exit_code": 0})


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
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:planted@127.0.0.1:{server.server_port}")
        with opened(["mlflow"], run_uri) as trackers:
            trackers.log(1, {"loss": 1.0})
        server.shutdown()
    assert server.logins == {f"Basic {base64.b64encode(b'me:planted').decode()}"}
    assert "planted" not in "".join(capfd.readouterr()) + caplog.text


def test_wandb_identifies_a_run_by_its_name_and_folder(tmp_path, wandb):
    for folder in ("one", "one", "two"):
        opened(["wandb"], str(tmp_path / folder)).close()
    first, resumed, other = (call.kwargs for call in wandb.init.call_args_list)
    assert first == resumed
    assert re.fullmatch("distil-1-[0-9a-f]{8}", first["id"])
    assert first["id"] != other["id"]
    assert (first["resume"], first["name"], first["dir"]) == ("allow", "distil 1", str(tmp_path / "one"))
    assert first["config"]["optimizer.learning_rate"] == 5e-4


@pytest.mark.parametrize(
    ("name", "run_uri", "absent", "message"),
    [
        ("tensorboard", "run", "tensorboardX", "needs the package tensorboardX: pip install tensorboardX"),
        ("mlflow", "run", "mlflow", "needs the package mlflow: pip install mlflow-skinny"),
        ("wandb", "run", "wandb", "needs the package wandb: pip install wandb"),
        ("aim", "run", "aim", "'aim' is not one of tensorboard, mlflow, wandb"),
        ("mlflow", "s3://bucket/run?region=us-east-1", "aim", "object store; set MLFLOW_TRACKING_URI"),
    ],
    ids=["no tensorboardX", "no mlflow", "no wandb", "unknown", "no server"],
)
def test_an_unusable_tracker_is_rejected(monkeypatch, name, run_uri, absent, message):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=f"^tracker '{name}'.*{message}$|^tracker {message}$"):
        check_trackers([name], run_uri)


def test_a_run_without_trackers_writes_nothing(run_uri):
    with opened([], run_uri) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert not Path(run_uri).exists()


def test_a_tracker_that_fails_warns_once_and_does_not_affect_the_others(run_uri, wandb, caplog):
    wandb.init.side_effect = ConnectionError("no route\nto the host")
    with opened(["wandb", "tensorboard"], run_uri) as trackers:
        for step in range(5):
            trackers.log(step, {"loss": 1.0})
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "tracker wandb: ConnectionError: no route; the run continues without it")
    ]
    assert [step for step, *_ in scalars(events_in(run_uri))] == [0, 1, 2, 3, 4]


def test_a_warning_contains_no_secret(run_uri, wandb, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "planted-1")
    message = "key planted-1 at https://me:planted-2@host/api?token=planted-3 refused"
    wandb.init.side_effect = ConnectionError(message)
    opened(["wandb"], run_uri).close()
    assert "key *** at https://***@host/api?*** refused" in caplog.text
    assert "planted" not in caplog.text


def test_a_tracker_that_hangs_delays_neither_training_nor_its_end(run_uri, wandb, monkeypatch, caplog):
    closed, in_time = threading.Event(), []
    wandb.init.side_effect = lambda **_: in_time.append(closed.wait(10))
    monkeypatch.setattr(tracking, "_CLOSE_S", 0.01)
    trackers = opened(["wandb"], run_uri)
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert "tracker wandb did not close in time" in caplog.text
    closed.set()
    for thread in trackers._threads:
        thread.result(timeout=10)
    assert in_time == [True]
