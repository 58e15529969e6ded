"""The service as started by `make serve`: open ports (S2), secrets in its output (S7, S8), and shutdown."""

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

from tests.faults.processes import processes_below
from tests.security.listeners import Listener, command, listeners_below
from tests.serve.server_process import STOP_S, start_server
from tests.serve.traffic import post
from tests.tiny.models import write_tiny_model

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
# Ray's own processes listen on every interface, even in a local cluster.
RAY_PROCESSES = {"gcs_server", "raylet", "python", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE",
          "ray::ServeController", "ray::ProxyActor", "ray::ServeReplica:fill-mask:FillMask"}  # fmt: skip
# The node's agent and the cluster's monitor expose metrics without authentication.
METRICS_PROCESSES = {"ray::DashboardAgent", "python"}
# One harmless method per kind of gRPC server of Ray, so that the response depends on the token.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)


class Attack:
    """Object that creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


@dataclass(frozen=True)
class Record:
    """Observations of one run of the service.

    Attributes:
        url: URL of the service.
        listeners: listening sockets.
        responses: results of gRPC calls and HTTP requests by non-loopback listener and by token (none, wrong, right).
        texts: all responses, output and logs by source.
        canaries: whether a pickle sent to the gRPC servers was executed, without and with the token.
        code: exit code after SIGTERM.
    """

    url: str
    listeners: list[Listener]
    responses: dict[Listener, dict[str, set[str]]]
    texts: dict[str, str]
    canaries: tuple[bool, bool]
    code: int


def call(address: str, method: str, token: str | None, body: bytes = b"") -> str:
    """Return the gRPC status of a call."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(body, timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def get(url: str, token: str | None) -> tuple[str, str]:
    """Return status and body of a GET request, or `no HTTP` if the server uses another protocol."""
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
        is_metrics = "# TYPE ray_" in body or (listener.role in METRICS_PROCESSES and "# HELP" in body)
        return {"metrics" if is_metrics else status}
    return {call(listener.address, method, token) for method in CALLS} - {"UNIMPLEMENTED"}


def ask(url: str, text: str, **headers: str) -> str:
    """Return status and body of a response, or `closed` if the service did not read a large request to its end."""
    try:
        status, _, body = post(f"{url}/score", {"input_data": [text]}, **headers)
    except (ConnectionError, urllib.error.URLError):
        return "closed"
    return f"{status} {body}"


def send_requests(url: str) -> dict[str, str]:
    """Send valid and invalid requests, and return the responses."""
    bearer = {"authorization": f"Bearer {KEY}"}
    texts = {}
    for number, text in enumerate(
        [f"{TEXT} [MASK]", f"\x1b[31m{TEXT}\n{{}}\r\u2028 [MASK]", f"{TEXT} " * 45_000, TEXT]
    ):
        texts[f"rejection {number}"] = ask(url, text)
        texts[f"response {number}"] = ask(url, text, **bearer)
    texts["wrong key"] = ask(url, "[MASK]", authorization=f"Bearer {KEY}x")
    texts["path"] = get(f"{url}/nowhere?{TEXT}", KEY)[1]
    for path in ("info", "metrics", "openapi.json", "readyz", "ui", "docs"):
        texts[path] = get(f"{url}/{path}", KEY)[1]
    return texts


def is_unpickled(listeners: list[Listener], token: str | None, canary: Path) -> bool:
    """Return True if any gRPC server unpickles a request."""
    request = ASGIRequest(pickled_request_metadata=pickle.dumps(Attack(canary))).SerializeToString()
    for listener in listeners:
        call(listener.address, "/ray.serve.ASGIService/HandleRequest", token, request)
    return canary.exists()


def session_folder(pid: int) -> Path:
    """Return the folder with the logs of a Ray session."""
    matches = (re.search(r"(/\S*/session_[\d_-]+)", command(each)) for each in processes_below(pid))
    return Path(next(match[1] for match in matches if match))


def observe(process: subprocess.Popen[bytes], url: str, token: str, folder: Path) -> Record:
    texts, listeners = send_requests(url), listeners_below(process.pid)
    exposed = [listener for listener in listeners if not listener.is_loopback]
    tokens = {"none": None, "wrong": secrets.token_hex(32), "right": token}
    responses = {each: {name: probe(each, value) for name, value in tokens.items()} for each in exposed}
    grpc_servers = [each for each in exposed if "UNAUTHENTICATED" in responses[each]["none"]]
    canaries = is_unpickled(grpc_servers, None, folder / "without"), is_unpickled(grpc_servers, token, folder / "with")
    texts["command lines"] = "\n".join(map(command, processes_below(process.pid)))
    logs = session_folder(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    texts["output"] = process.communicate(timeout=STOP_S)[0].decode()
    for file in logs.rglob("*"):
        if file.is_file():
            texts[file.name] = file.read_text(encoding="utf-8", errors="replace")
    return Record(url, listeners, responses, texts, canaries, process.returncode)


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
            result = observe(process, url, token, folder)
            result.texts["environment"] = token  # also search for this secret
            yield result
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_at_sigterm_it_shuts_down_and_frees_its_port(record: Record) -> None:
    assert record.code == 0
    assert record.texts["output"] == "serve_fill_mask: stopped\n"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(record.url.rpartition(":")[2]))) != 0


# S2


def test_the_service_listens_on_loopback(record: Record) -> None:
    port = int(record.url.rpartition(":")[2])
    assert {each.host for each in record.listeners if each.port == port} == {"127.0.0.1"}


def test_beyond_loopback_only_ray_listens_and_no_dashboard(record: Record) -> None:
    roles = {listener.role for listener in record.responses}
    assert {"gcs_server", "raylet"} <= roles  # so that the test can fail
    assert roles <= RAY_PROCESSES


@pytest.mark.parametrize("token", ["none", "wrong"])
def test_listeners_beyond_loopback_reject_requests_without_the_token(record: Record, token: str) -> None:
    responses = [(each.role, by_token[token]) for each, by_token in record.responses.items()]
    rejections = [{"UNAUTHENTICATED"}, {"HTTP 401"}, {"HTTP 403"}, {"metrics"}]
    assert not [(role, response) for role, response in responses if response not in rejections]
    assert {role for role, response in responses if response == {"metrics"}} <= METRICS_PROCESSES


def test_listeners_accept_requests_with_the_token(record: Record) -> None:
    [response] = [by_token["right"] for each, by_token in record.responses.items() if each.role == "gcs_server"]
    assert response == {"OK"}  # so that the tests above can fail


def test_a_pickle_sent_to_a_replica_runs_only_with_the_token(record: Record) -> None:
    assert record.canaries == (False, True)


# S7 and S8


@pytest.mark.parametrize("name", [*PLANTED, "RAY_AUTH_TOKEN"])
def test_no_secret_of_the_environment_is_disclosed(record: Record, name: str) -> None:
    value = PLANTED.get(name, record.texts["environment"])
    assert [source for source, text in record.texts.items() if value in text and source != "environment"] == []


def test_the_text_of_a_request_is_only_in_its_own_response(record: Record) -> None:
    lines = [
        line for source, text in record.texts.items() if not source.startswith("response") for line in text.splitlines()
    ]
    assert [line[:500] for line in lines if TEXT in line] == []


def test_the_requests_were_processed(record: Record) -> None:
    assert record.texts["response 0"].startswith("200")
    assert "Unauthorized" in record.texts["rejection 0"]
    assert any("fill_mask_requests_total" in text for text in record.texts.values())
    assert any('"route": "/score"' in text or '"route":"/score"' in text for text in record.texts.values())
