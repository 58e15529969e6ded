"""The servers under load, each started as a user would: the project's job, and the peer."""

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_S, STOP_S = 120.0, 60.0
# Above the worker ports of Ray and below those that the kernel hands out; replicas behind HAProxy take some too.
_PORTS = range(20_000, 29_000)
_BLOCK = 100


@dataclass(frozen=True)
class Server:
    """A server that answers: port, process, and the environment in which it runs."""

    port: int
    pid: int
    environment: Mapping[str, str]


@contextlib.contextmanager
def fill_mask_server(
    model_dir: str, *, proxy: str, log: Path, cpus: int, replicas: int = 1, settings: Sequence[str] = ()
) -> Iterator[Server]:
    """`jobs.serve_fill_mask` until the block ends, its CPUs split evenly among its replicas.

    Args:
        model_dir: of this machine.
        proxy: "haproxy" or "python", Serve's own.
        log: receives what the job prints.
        cpus: of the Ray session.
        replicas: processes with the model.
        settings: more `a.b=value`.
    """
    block = _free_block()
    values = {
        "app.model_dir": model_dir,
        "app.num_cpus": cpus // replicas,
        "app.num_replicas": replicas,
        "ray.num_cpus": cpus,
        "port": block,
        "proxy": proxy,
    }
    command = [sys.executable, "-m", "jobs.serve_fill_mask", *(f"{name}={value}" for name, value in values.items())]
    with _running([*command, *settings], _environment(block), block, log) as server:
        yield server


@contextlib.contextmanager
def peer_server(model_dir: str, *, log: Path, threads: int) -> Iterator[Server]:
    """The pipeline behind FastAPI until the block ends."""
    port = _free_block()
    module = "benchmarks.serving_load.pipeline_server"
    command = [sys.executable, "-m", module, model_dir, "--port", str(port), "--threads", str(threads)]
    with _running(command, dict(os.environ), port, log) as server:
        yield server


@contextlib.contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str], port: int, log: Path) -> Iterator[Server]:
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    try:
        _wait_until_ready(process, port, log)
        yield Server(port, process.pid, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            print(f"{log}: the server did not end within {STOP_S:g} s of SIGTERM and was killed", flush=True)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode} while it started; see {log}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
            return
        except OSError:
            pass  # not yet
        time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {START_S:g} s; see {log}")


def _environment(block: int) -> dict[str, str]:
    """Ports of its own for the replicas behind HAProxy, and a token of its own."""
    ports = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": block + 10,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": block + 49,
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": block + 50,
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": block + 89,
    }
    mine = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "RAY_JOB_ID"}}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return mine | token | {name: str(value) for name, value in ports.items()}


def _free_block() -> int:
    """The first of a block of ports in which the first ones are free."""
    starts = list(range(_PORTS.start, _PORTS.stop, _BLOCK))
    random.SystemRandom().shuffle(starts)
    for start in starts:
        if all(_is_free(start + offset) for offset in (0, 10, 11, 50, 51)):
            return start
    raise SystemExit("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
