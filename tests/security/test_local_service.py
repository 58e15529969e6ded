"""The service as started by `make serve`: open ports (S2), secrets in its output (S7, S8), and shutdown."""

import contextlib
import http.client
import os
import pickle
import re
import secrets
import signal
import socket
import struct
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import grpc
import pytest
from ray.serve.generated.serve_pb2 import ASGIRequest

from tests.faults.processes import processes_below
from tests.serve.server_process import STOP_S, start_server
from tests.serve.traffic import post
from tests.tiny.models import write_tiny_model

pytestmark = pytest.mark.slow

KEY = "planted-key-of-this-test"
TEXT = "planted-text-of-a-request"
SECRETS = {
    "DISTILRAY_API_KEYS": KEY,
    "HF_TOKEN": "planted-token-of-the-hub",
    "AWS_ACCESS_KEY_ID": "planted-id-of-the-store",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-of-the-store",
    "WANDB_API_KEY": "planted-key-of-a-tracker",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-a-tracker",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
# Ray's own processes listen on every interface, even in a local cluster.
RAY_PROCESSES = {"gcs_server", "raylet", "python", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE",
          "ray::ServeController", "ray::ProxyActor", "ray::ServeReplica:fill-mask:FillMask"}  # fmt: skip
# The node's agent and the cluster's monitor expose metrics without authentication.
METRICS_PROCESSES = {"ray::DashboardAgent", "python"}
LISTENING = "0A"  # in /proc/net/tcp
ASGI = "/ray.serve.ASGIService/HandleRequest"
# One harmless method per kind of gRPC server of Ray, so that the response depends on the token.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    ASGI,
)


class Attack:
    """Object that creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


class Listener(NamedTuple):
    """Listening TCP socket with the name of its process."""

    port: int
    host: str
    role: str

    @property
    def is_loopback(self):
        return self.host in {"127.0.0.1", "::1"}

    @property
    def address(self):
        """Address for connections from this machine."""
        return f"{'127.0.0.1' if self.host in {'0.0.0.0', '::'} else self.host}:{self.port}"


def command(pid):
    """Return the command line of a process, or "" if it has exited."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def listeners_below(pid):
    """Return the listening sockets of a process and its descendants."""
    addresses, listeners = listening_addresses(), set()
    for each in processes_below(pid):
        name = command(each).split(" ")[0]
        role = name.split(".")[0] if name.startswith("ray::") else name.rpartition("/")[2]
        for descriptor in Path(f"/proc/{each}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if address := addresses.get(str(descriptor.readlink())):
                    listeners.add(Listener(*address, role))
    return sorted(listeners)


def listening_addresses():
    """Return port and host of all listening sockets of this machine by the name of their descriptors."""
    addresses = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                host, port = fields[1].split(":")
                packed = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
                addresses[f"socket:[{fields[9]}]"] = int(port, 16), socket.inet_ntop(family, packed)
    return addresses


def call(address, method, token, body=b""):
    """Return the gRPC status of a call."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(body, timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def get(url, token):
    """Return status and body of a GET request, or `no HTTP` if the server uses another protocol."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return f"HTTP {response.status}", response.read().decode()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}", error.read().decode()
    except (OSError, http.client.HTTPException):
        return "no HTTP", ""


def probe(listener, token):
    """Return the responses of a listener: an HTTP status, `metrics`, or gRPC statuses."""
    status, body = get(f"http://{listener.address}/", token)
    if status != "no HTTP":
        is_metrics = "# TYPE ray_" in body or (listener.role in METRICS_PROCESSES and "# HELP" in body)
        return {"metrics" if is_metrics else status}
    return {call(listener.address, method, token) for method in CALLS} - {"UNIMPLEMENTED"}


def probe_all(listeners):
    """Return the responses by listener and token (none, wrong, right)."""
    tokens = {"none": None, "wrong": secrets.token_hex(32), "right": SECRETS["RAY_AUTH_TOKEN"]}
    with ThreadPoolExecutor(16) as threads:
        probes = {each: {name: threads.submit(probe, each, tokens[name]) for name in tokens} for each in listeners}
        return {each: {name: future.result() for name, future in by_token.items()} for each, by_token in probes.items()}


def ask(url, text, **headers):
    """Return status and body of a response, or `closed` if the service did not read a large request to its end."""
    try:
        status, _, body = post(f"{url}/score", {"input_data": [text]}, **headers)
    except (ConnectionError, urllib.error.URLError):
        return "closed"
    return f"{status} {body}"


def send_requests(url):
    """Send valid and invalid requests, and return the responses."""
    bearer, texts = {"authorization": f"Bearer {KEY}"}, {}
    hostile = [f"{TEXT} [MASK]", f"\x1b[31m{TEXT}\n{{}}\r\u2028 [MASK]", f"{TEXT} " * 45_000, TEXT]
    for number, text in enumerate(hostile):
        texts[f"rejection {number}"] = ask(url, text)
        texts[f"response {number}"] = ask(url, text, **bearer)
    texts["wrong key"] = ask(url, "[MASK]", authorization=f"Bearer {KEY}x")
    for path in (f"nowhere?{TEXT}", "info", "metrics", "openapi.json", "readyz", "ui", "docs"):
        texts[path] = get(f"{url}/{path}", KEY)[1]
    return texts


def is_unpickled(listeners, token, canary):
    """Return True if any gRPC server unpickles a request."""
    request = ASGIRequest(pickled_request_metadata=pickle.dumps(Attack(canary))).SerializeToString()
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda listener: call(listener.address, ASGI, token, request), listeners))
    return canary.exists()


def observe(process, url, folder):
    """Return the observations of one run of the service.

    They are its port, listening sockets, their responses, all texts (responses, output and logs), whether a pickle sent
    to the gRPC servers was executed without and with the token, and the exit code after SIGTERM.
    """
    texts, listeners = send_requests(url), listeners_below(process.pid)
    responses = probe_all([each for each in listeners if not each.is_loopback])
    servers = [each for each, by_token in responses.items() if "UNAUTHENTICATED" in by_token["none"]]
    canaries = tuple(
        is_unpickled(servers, token, folder / name)
        for name, token in (("without", None), ("with", SECRETS["RAY_AUTH_TOKEN"]))
    )
    commands = [command(each) for each in processes_below(process.pid)]
    texts["command lines"] = "\n".join(commands)
    logs = next(match[1] for each in commands if (match := re.search(r"(/\S*/session_[\d_-]+)", each)))
    process.send_signal(signal.SIGTERM)
    texts["output"] = process.communicate(timeout=STOP_S)[0].decode()
    for file in Path(logs).rglob("*"):
        if file.is_file():
            texts[file.name] = file.read_text(encoding="utf-8", errors="replace")
    port = int(url.rpartition(":")[2])
    return SimpleNamespace(
        port=port, listeners=listeners, responses=responses, texts=texts, canaries=canaries, code=process.returncode
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        model_dir = write_tiny_model(folder / "model", "distilbert")
        process, url = start_server(model_dir, "app.precision=fp32", "app.access_log=true", "ray.num_cpus=2")
        try:
            yield observe(process, url, folder)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_at_sigterm_it_shuts_down_and_frees_its_port(record):
    assert record.code == 0
    assert record.texts["output"] == "serve_fill_mask: stopped\n"
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", record.port)) != 0


# S2


def test_the_service_listens_on_loopback_and_beyond_it_only_ray(record):
    assert {each.host for each in record.listeners if each.port == record.port} == {"127.0.0.1"}
    roles = {listener.role for listener in record.responses}
    assert {"gcs_server", "raylet"} <= roles  # so that the test can fail
    assert roles <= RAY_PROCESSES


@pytest.mark.parametrize("token", ["none", "wrong"])
def test_listeners_beyond_loopback_reject_requests_without_the_token(record, token):
    responses = [(each.role, by_token[token]) for each, by_token in record.responses.items()]
    rejections = [{"UNAUTHENTICATED"}, {"HTTP 401"}, {"HTTP 403"}, {"metrics"}]
    assert not [(role, response) for role, response in responses if response not in rejections]
    assert {role for role, response in responses if response == {"metrics"}} <= METRICS_PROCESSES
    [right] = [by_token["right"] for each, by_token in record.responses.items() if each.role == "gcs_server"]
    assert right == {"OK"}  # so that the test can fail


def test_a_pickle_sent_to_a_replica_runs_only_with_the_token(record):
    assert record.canaries == (False, True)


# S7 and S8


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_of_the_environment_is_disclosed(record, name):
    assert [source for source, text in record.texts.items() if SECRETS[name] in text] == []


def test_the_text_of_a_request_is_only_in_its_own_response(record):
    texts = [text for source, text in record.texts.items() if not source.startswith("response")]
    assert [line[:500] for text in texts for line in text.splitlines() if TEXT in line] == []


def test_the_requests_were_processed(record):
    assert record.texts["response 0"].startswith("200")
    assert "Unauthorized" in record.texts["rejection 0"]
    assert any("fill_mask_requests_total" in text for text in record.texts.values())
    assert any(re.search(r'"route": ?"/score"', text) for text in record.texts.values())
