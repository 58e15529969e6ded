"""A job reaches a cluster that does not know the project: its files and a token are all that is sent."""

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

import pytest

pytestmark = pytest.mark.slow

RAY = str(Path(sys.executable).with_name("ray"))
START_S = 120  # seconds that a busy machine may take; usually 5
JOB_S = 240  # usually 15
COMMAND = ["python", "-m", "jobs.build_corpus", "--recipe", "jobs/recipes/build_corpus/quickstart.yaml"]


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

    def submit(self, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of the corpus job from a checkout, as the README gives it."""
        options = ["--address", self.address, "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml"]
        return subprocess.run(
            [RAY, "job", "submit", *options, "--", *COMMAND, *arguments],
            cwd=checkout,
            env={**clean_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token},
            capture_output=True,
            text=True,
            timeout=JOB_S,
        )


def clean_environment() -> dict[str, str]:
    """The environment without anything that would make the project importable or name another cluster."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("RAY_")}
    folder = str(Path(sys.executable).parent)
    return {**kept, "PATH": folder + os.pathsep + kept.get("PATH", ""), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def head(free_port: Callable[[], int]) -> Iterator[Head]:
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


def test_a_job_runs_on_a_cluster_that_does_not_know_the_project(head: Head, checkout: Path, tmp_path: Path) -> None:
    done = head.submit(checkout, f"run_dir={tmp_path}/corpus")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["content"]["job"] == "build_corpus"
    assert list((tmp_path / "corpus" / "documents").glob("*.parquet"))


def test_bad_input_fails_the_job_with_its_one_line(head: Head, checkout: Path, tmp_path: Path) -> None:
    done = head.submit(checkout, f"run_dir={tmp_path}/corpus", "filters.min_wrods=3")
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "filters.min_wrods: unknown key; did you mean 'min_words'?" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)], ids=["no token", "a wrong token"])
def test_the_jobs_api_is_closed_without_the_token(head: Head, token: str | None, status: int) -> None:
    assert head.get("/api/jobs/", token) == status
