"""A cluster of one machine that does not know the project, with token authentication, and what talks to it."""

import contextlib
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
START_S = 120  # seconds that a busy machine may take; usually 5
JOB_S = 240  # usually 15
RECIPE = "jobs/recipes/build_corpus/quickstart.yaml"
COMMAND = ["python", "-m", "jobs.build_corpus", "--recipe", RECIPE]

Wrapper = subprocess.Popen[str]


@dataclass(frozen=True)
class Head:
    """A cluster of one machine with token authentication."""

    address: str
    token: str

    def get(self, path: str, token: str | None) -> int:
        """HTTP status of a GET."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers), timeout=5) as got:
                return got.status
        except urllib.error.HTTPError as error:
            return error.code

    def read(self, path: str) -> str:
        """Body of a GET with the token."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def submit(
        self, checkout: Path, *arguments: str, command: Sequence[str] = COMMAND
    ) -> subprocess.CompletedProcess[str]:
        """Submit a command, the corpus job when left out, from a checkout with `ray job submit`, as the README does."""
        options = ["--address", self.address, "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml"]
        return subprocess.run(
            [RAY, "job", "submit", *options, "--", *command, *arguments],
            cwd=checkout,
            env={**clean_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token},
            capture_output=True,
            text=True,
            timeout=JOB_S,
        )

    def wrapper(self, checkout: Path, *arguments: str, address: str = "", token: str | None = None) -> Wrapper:
        """`python -m jobs.submit` from a checkout, started; shows the token of the head unless it is given another."""
        environment = {**clean_environment(), "PYTHONPATH": "platform", "HOME": str(checkout.parent)}
        environment["RAY_AUTH_TOKEN"] = self.token if token is None else token
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.submit", "--address", address or self.address, *arguments],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def clean_environment() -> dict[str, str]:
    """The environment without anything that would make the project importable or name another cluster."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("RAY_")}
    folder = str(Path(sys.executable).parent)
    return {**kept, "PATH": folder + os.pathsep + kept.get("PATH", ""), "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def running_head(free_port: Callable[[], int]) -> Iterator[Head]:
    """A head that lives as long as the block."""
    # Sockets of Ray lie in its temporary folder and their paths must stay below 108 characters.
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
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nothing is left to drain when the tests are over
    }
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(head, process, folder / "head.log")
        yield head
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the head ended:\n{log.read_text()}"
        try:
            if head.get("/api/jobs/", head.token) == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the head did not answer in {START_S} s:\n{log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the head that this test has started, with its children, and no other Ray of this machine."""
    process.terminate()  # it ends its children in the right order
    try:
        process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left of the group, which is its own
