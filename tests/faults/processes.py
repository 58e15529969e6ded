"""Start jobs, and find and kill the processes that they start. Imports little, because workers import this module."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LIMIT_S = 480
TASK = b"ray::MapBatches"  # start of the name of a worker that runs a task
_PARENT, _SESSION = 1, 3  # fields of /proc/<pid>/stat after the name


def start(root: Path, job: str, recipe: str) -> subprocess.Popen[str]:
    """Start a job in a new session, to which the Ray processes that it starts also belong."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", "--recipe", recipe],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "platform")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition while a job is running."""

    def is_met() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return condition()

    wait_until(is_met, poll_s=0.05)


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S, poll_s: float = 0.005) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(poll_s)


def wait_for_value(value: Callable[[], T], is_ready: Callable[[T], bool]) -> T:
    """Return the first value that is ready; evaluating it again might give another one."""
    values: list[T] = []

    def poll() -> bool:
        values[:] = [value()]
        return is_ready(values[0])

    wait_until(poll)
    return values[0]


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a job and all processes of its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)


def kill_worker(job: subprocess.Popen[str], name: bytes = TASK) -> None:
    """Kill a Ray worker of a job as soon as there is one; by default, one that runs a task."""

    def killed() -> bool:
        for pid in workers(job.pid, name):
            with contextlib.suppress(ProcessLookupError):  # it has exited since
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    wait_for(killed, job)


def workers(session: int, name: bytes = TASK) -> list[int]:
    """Return the Ray workers of a session whose names start with `name`."""
    return [pid for pid, fields in _processes() if int(fields[_SESSION]) == session and _has_name(pid, name)]


def train_workers() -> list[int]:
    """Return the Ray Train workers that descend from this process."""
    return sorted(pid for pid in processes_below(os.getpid()) if _has_name(pid, b"ray::RayTrainWorker"))


def processes_below(pid: int) -> set[int]:
    """Return a process and its descendants."""
    parents = {child: int(fields[_PARENT]) for child, fields in _processes()}
    pids = {pid}
    while children := {child for child, parent in parents.items() if parent in pids and child not in pids}:
        pids |= children
    return pids


def _processes() -> Iterator[tuple[int, list[str]]]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has exited
            yield int(file.parent.name), file.read_text().rpartition(")")[2].split()


def _has_name(pid: int, start: bytes) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(start)
    except OSError:
        return False  # it has exited


def report_node(item: dict[str, Any]) -> dict[str, Any]:
    """Task that returns the id of its node after half a second."""
    import ray

    time.sleep(0.5)
    return {"number": item["number"], "node": ray.get_runtime_context().get_node_id()}
