"""Cluster of one machine without the project's code, with token authentication, and commands that use it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

RAY = str(Path(sys.executable).with_name("ray"))
START_S = 120  # usually 5
JOB_S = 240  # usually 15
RECIPE = "jobs/recipes/build_corpus/quickstart.yaml"


class Result(NamedTuple):
    """Exit code, stdout (the log of the job) and stderr of `jobs.submit`."""

    code: int
    log: str
    errors: str


@dataclass(frozen=True)
class Wrapper:
    """Running `jobs.submit`."""

    process: subprocess.Popen[str]

    def result(self) -> Result:
        """Wait for the exit of the command."""
        log, errors = self.process.communicate(timeout=JOB_S)
        return Result(self.process.returncode, log, errors)


@dataclass(frozen=True)
class Head:
    """Address and token of the cluster."""

    address: str
    token: str

    def get(self, path: str, token: str | None) -> int:
        """Return the HTTP status of a GET request."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.address + path, headers=headers), timeout=5
            ) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    def read(self, path: str) -> str:
        """Return the body of a GET request with the token."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()

    def submit(self, checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Submit a command from a checkout with `ray job submit`, as in the README."""
        options = ["--address", self.address, "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml"]
        return subprocess.run(
            [RAY, "job", "submit", *options, "--", *command],
            cwd=checkout,
            env={**clean_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token},
            capture_output=True,
            text=True,
            timeout=JOB_S,
        )

    def wrapper(self, checkout: Path, *arguments: str, address: str = "", token: str | None = None) -> Wrapper:
        """Start `python -m jobs.submit` from a checkout, with the token of the head by default."""
        environment = {**clean_environment(), "PYTHONPATH": "platform", "HOME": str(checkout.parent)}
        environment["RAY_AUTH_TOKEN"] = self.token if token is None else token
        command = [sys.executable, "-m", "jobs.submit", "--address", address or self.address, *arguments]
        pipe = subprocess.PIPE
        return Wrapper(subprocess.Popen(command, cwd=checkout, env=environment, stdout=pipe, stderr=pipe, text=True))


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that make the project importable or refer to another cluster."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("RAY_")}
    folder = str(Path(sys.executable).parent)
    return {**kept, "PATH": folder + os.pathsep + kept.get("PATH", ""), "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def running_head(free_port: Callable[[], int]) -> Iterator[Head]:
    """Run a head until the block ends."""
    # The temporary folder contains Ray's sockets, whose paths are limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="head-"))
    head = Head(f"http://127.0.0.1:{free_port()}", secrets.token_hex(32))
    ports = ["port", "ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
             "metrics-export-port", "node-manager-port", "object-manager-port", "runtime-env-agent-port"]  # fmt: skip
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
               f"--temp-dir={folder}", "--object-store-memory=200000000", "--dashboard-host=127.0.0.1",
               f"--dashboard-port={head.address.rpartition(':')[2]}",
               *(f"--{name}={free_port()}" for name in ports)]  # fmt: skip
    environment = {
        **clean_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": head.token,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is nothing to drain at the end of the tests
    }
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(head, process, folder / "head.log")
        yield head
    finally:
        terminate(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the head exited:\n{log.read_text()}"
        with contextlib.suppress(OSError):
            if has_node(head):
                return
        time.sleep(0.2)
    raise AssertionError(f"the head did not respond within {START_S} s:\n{log.read_text()}")


def has_node(head: Head) -> bool:
    """Return True if the dashboard lists a node, which it does a moment after it accepts jobs."""
    answer = json.loads(head.read("/api/v0/nodes?detail=true"))
    return any(node["state"] == "ALIVE" for node in answer["data"]["result"]["result"])


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Stop the head that this test has started, with its children, but no other Ray cluster of this machine."""
    process.terminate()  # it stops its children in the correct order
    try:
        process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # remaining processes of its own group
