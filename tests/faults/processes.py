"""Start jobs, and find and kill the processes that they start. Imports little, because workers import this module."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LIMIT_S = 480


def start(root: Path, job: str, recipe: Path) -> subprocess.Popen[str]:
    """Start a job in a new session, to which the Ray processes that it starts also belong."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", "--recipe", str(recipe)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "platform")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a job and all processes of its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)


def kill_worker(job: subprocess.Popen[str], name: bytes = b"ray::MapBatches") -> None:
    """Kill a Ray worker of a job as soon as there is one; by default, one that runs a task."""

    def killed() -> bool:
        for pid in workers(job.pid, name):
            with contextlib.suppress(ProcessLookupError):  # it has exited since
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    wait_for(killed, job)


def workers(session: int, name: bytes = b"ray::MapBatches") -> list[int]:
    """Return the Ray workers of a session whose names start with `name`; by default, those that run tasks."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            in_session = int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session
        except (OSError, IndexError):
            continue
        if in_session and command.startswith(name):
            pids.append(int(process.name))
    return pids


def train_workers() -> list[int]:
    """Return the Ray Train workers that descend from this process."""
    return workers_below(b"ray::RayTrainWorker")


def workers_below(name: bytes) -> list[int]:
    """Return the Ray workers that descend from this process and whose names start with `name`."""
    pids = []
    for pid in processes_below(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has exited
        if command.startswith(name):
            pids.append(pid)
    return sorted(pids)


def processes_below(pid: int) -> set[int]:
    """Return a process and its descendants."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has exited
    pids = {pid}
    while children := {child for child, parent in parents.items() if parent in pids and child not in pids}:
        pids |= children
    return pids


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait for a condition, which need not belong to a process."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_value(value: Callable[[], T], is_ready: Callable[[T], bool]) -> T:
    """Return the first value that is ready; evaluating it again might give another one."""
    values: list[T] = []

    def poll() -> bool:
        values[:] = [value()]
        return is_ready(values[0])

    wait_until(poll)
    return values[0]


def report_node(item: dict[str, Any]) -> dict[str, Any]:
    """Task that returns the id of its node after half a second."""
    import ray

    time.sleep(0.5)
    return {"number": item["number"], "node": ray.get_runtime_context().get_node_id()}
