"""The service as `make serve` starts it: what it opens (S2), what it tells of secrets (S7, S8), and how it ends."""

import http.client
import os
import pickle
import re
import secrets
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from ray.serve.generated.serve_pb2 import ASGIRequest

from tests.distilray.inference.tiny_models import write_tiny_model
from tests.faults.processes import processes_below
from tests.security.listeners import Listener, command, listeners_below
from tests.serve.server_process import STOP_S, start_server
from tests.serve.traffic import post

pytestmark = pytest.mark.slow

KEY = "planted-key-of-this-test"
TEXT = "planted-text-of-a-request"
PLANTED = {
    "DISTILRAY_API_KEYS": KEY,
    "HF_TOKEN": "planted-token-of-the-hub",
    "AWS_ACCESS_KEY_ID": "planted-id-of-the-store",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-of-the-store",
    "WANDB_API_KEY": "planted-key-of-a-tracker",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-a-tracker",
}
# Who listens beyond loopback: Ray's own processes, which listen on every interface even for a local cluster.
OF_RAY = {"gcs_server", "raylet", "python", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE",
          "ray::ServeController", "ray::ProxyActor", "ray::ServeReplica:fill-mask:FillMask"}  # fmt: skip
# Who tells metrics to everybody: the agent of the node, and the monitor of the cluster as soon as it has started.
OF_METRICS = {"ray::DashboardAgent", "python"}
# A harmless call that each kind of gRPC server of Ray knows, so that it is the token that is judged.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)


class Attack:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


@dataclass(frozen=True)
class Record:
    """What was seen of one run of the service.

    Attributes:
        url: of the service.
        listeners: what listened while it ran.
        answers: by listener beyond loopback and by token (None, a wrong one, the right one): what gRPC calls and HTTP
            requests came to.
        texts: all that it has said, by place.
        canaries: whether a pickle that was sent to the gRPC servers has run, without the token and with it.
        code: how it ended at SIGTERM.
    """

    url: str
    listeners: list[Listener]
    answers: dict[Listener, dict[str, set[str]]]
    texts: dict[str, str]
    canaries: tuple[bool, bool]
    code: int


def call(address: str, method: str, token: str | None, body: bytes = b"") -> str:
    """The gRPC status of a call."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(body, timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def get(url: str, token: str | None) -> tuple[str, str]:
    """The HTTP status of a GET and the body; `no HTTP` where something else is spoken."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return f"HTTP {response.status}", response.read().decode()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}", error.read().decode()
    except (OSError, http.client.HTTPException):
        return "no HTTP", ""


def probe(listener: Listener, token: str | None) -> set[str]:
    status, body = get(f"http://{listener.address}/", token)
    if status != "no HTTP":
        is_metrics = "# TYPE ray_" in body or (listener.role in OF_METRICS and "# HELP" in body)
        return {"metrics" if is_metrics else status}
    return {call(listener.address, method, token) for method in CALLS} - {"UNIMPLEMENTED"}


def ask(url: str, text: str, **headers: str) -> str:
    """Status and body of an answer; `closed` where the service did not wait for the end of a large request."""
    try:
        status, _, body = post(f"{url}/score", {"input_data": [text]}, **headers)
    except (ConnectionError, urllib.error.URLError):
        return "closed"
    return f"{status} {body}"


def talk(url: str) -> dict[str, str]:
    """Good and bad requests, and what came back."""
    bearer = {"authorization": f"Bearer {KEY}"}
    said = {}
    for number, text in enumerate(
        [f"{TEXT} [MASK]", f"\x1b[31m{TEXT}\n{{}}\r\u2028 [MASK]", f"{TEXT} " * 45_000, TEXT]
    ):
        said[f"refusal {number}"] = ask(url, text)
        said[f"answer {number}"] = ask(url, text, **bearer)
    said["wrong key"] = ask(url, "[MASK]", authorization=f"Bearer {KEY}x")
    said["path"] = get(f"{url}/nowhere?{TEXT}", KEY)[1]
    for path in ("info", "metrics", "openapi.json", "readyz", "ui", "docs"):
        said[path] = get(f"{url}/{path}", KEY)[1]
    return said


def attacked(listeners: list[Listener], token: str | None, canary: Path) -> bool:
    """Whether a pickle that is sent to every gRPC server is read."""
    request = ASGIRequest(pickled_request_metadata=pickle.dumps(Attack(canary))).SerializeToString()
    for listener in listeners:
        call(listener.address, "/ray.serve.ASGIService/HandleRequest", token, request)
    return canary.exists()


def session_folder(pid: int) -> Path:
    """Where Ray keeps the logs of a session."""
    found = (re.search(r"(/\S*/session_[\d_-]+)", command(each)) for each in processes_below(pid))
    return Path(next(match[1] for match in found if match))


def observe(process: subprocess.Popen[bytes], url: str, token: str, folder: Path) -> Record:
    texts, listeners = talk(url), listeners_below(process.pid)
    open_ones = [listener for listener in listeners if not listener.is_loopback]
    tokens = {"none": None, "wrong": secrets.token_hex(32), "right": token}
    answers = {each: {name: probe(each, value) for name, value in tokens.items()} for each in open_ones}
    speak_grpc = [each for each in open_ones if "UNAUTHENTICATED" in answers[each]["none"]]
    canaries = attacked(speak_grpc, None, folder / "without"), attacked(speak_grpc, token, folder / "with")
    texts["command lines"] = "\n".join(map(command, processes_below(process.pid)))
    logs = session_folder(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    texts["output"] = process.communicate(timeout=STOP_S)[0].decode()
    for file in logs.rglob("*"):
        if file.is_file():
            texts[file.name] = file.read_text(encoding="utf-8", errors="replace")
    return Record(url, listeners, answers, texts, canaries, process.returncode)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    folder = tmp_path_factory.mktemp("service")
    token = secrets.token_hex(32)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**PLANTED, "RAY_AUTH_TOKEN": token}.items():
            patch.setenv(name, value)
        model_dir = write_tiny_model(folder / "model", "distilbert")
        settings = ("app.dtype=float32", "app.access_log=true", "ray.num_cpus=2")
        process, url = start_server(model_dir, *settings)
        try:
            found = observe(process, url, token, folder)
            found.texts["environment"] = token  # to be looked for beside what was planted
            yield found
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_at_sigterm_it_ends_in_order_and_leaves_its_port_free(record: Record) -> None:
    assert record.code == 0
    assert record.texts["output"] == "serve_fill_mask: stopped\n"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(record.url.rpartition(":")[2]))) != 0


# S2


def test_the_service_listens_on_loopback(record: Record) -> None:
    port = int(record.url.rpartition(":")[2])
    assert {each.host for each in record.listeners if each.port == port} == {"127.0.0.1"}


def test_beyond_loopback_only_processes_of_ray_listen_and_no_dashboard(record: Record) -> None:
    roles = {listener.role for listener in record.answers}
    assert {"gcs_server", "raylet"} <= roles  # so that something was looked at
    assert roles <= OF_RAY


@pytest.mark.parametrize("token", ["none", "wrong"])
def test_what_listens_beyond_loopback_answers_nobody_without_the_token(record: Record, token: str) -> None:
    answered = [(each.role, found[token]) for each, found in record.answers.items()]
    refused = [{"UNAUTHENTICATED"}, {"HTTP 401"}, {"HTTP 403"}, {"metrics"}]
    assert not [(role, found) for role, found in answered if found not in refused]
    assert {role for role, found in answered if found == {"metrics"}} <= OF_METRICS


def test_with_the_token_it_answers(record: Record) -> None:
    [of_the_store] = [found["right"] for each, found in record.answers.items() if each.role == "gcs_server"]
    assert of_the_store == {"OK"}  # so the tests above can fail


def test_a_pickle_that_is_sent_to_a_replica_runs_for_the_holder_of_the_token_alone(record: Record) -> None:
    assert record.canaries == (False, True)


# S7 and S8


@pytest.mark.parametrize("name", [*PLANTED, "RAY_AUTH_TOKEN"])
def test_no_secret_of_the_environment_is_told(record: Record, name: str) -> None:
    value = PLANTED.get(name, record.texts["environment"])
    assert [place for place, text in record.texts.items() if value in text and place != "environment"] == []


def test_the_text_of_no_request_is_told_but_in_its_own_answer(record: Record) -> None:
    lines = [
        line for place, text in record.texts.items() if not place.startswith("answer") for line in text.splitlines()
    ]
    assert [line[:500] for line in lines if TEXT in line] == []


def test_what_was_sent_was_worked_on(record: Record) -> None:
    assert record.texts["answer 0"].startswith("200")
    assert "Unauthorized" in record.texts["refusal 0"]
    assert any("fill_mask_requests_total" in text for text in record.texts.values())
    assert any('"route": "/score"' in text or '"route":"/score"' in text for text in record.texts.values())
