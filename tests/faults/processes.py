"""Jobs as processes of their own, and the processes that a job starts, to be killed. Workers import it soon."""

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
    """A job in a session of its own, which holds the Ray processes that it starts too."""
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
    """Kills a job and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)


def kill_worker(job: subprocess.Popen[str], name: bytes = b"ray::MapBatches") -> None:
    """Kills a Ray worker of a job as soon as there is one: in a task if no name is given."""

    def killed() -> bool:
        for pid in workers(job.pid, name):
            with contextlib.suppress(ProcessLookupError):  # ended since it was listed
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    wait_for(killed, job)


def workers(session: int, name: bytes = b"ray::MapBatches") -> list[int]:
    """Ray workers of a session of processes, by how their names begin: in a task if no name is given."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            own = int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session
        except (OSError, IndexError):
            continue
        if own and command.startswith(name):
            found.append(int(process.name))
    return found


def train_workers() -> list[int]:
    """The workers of Ray Train that live below this process."""
    return workers_below(b"ray::RayTrainWorker")


def workers_below(name: bytes) -> list[int]:
    """Ray workers that live below this process, by how their names begin."""
    found = []
    for pid in processes_below(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if command.startswith(name):
            found.append(pid)
    return sorted(found)


def processes_below(pid: int) -> set[int]:
    """A process and all that it has started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return found


def eventually(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Returns as soon as something is so."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def eventual(value: Callable[[], T], is_ready: Callable[[T], bool]) -> T:
    """The first value that is ready; a second look could give another one."""
    values: list[T] = []

    def look() -> bool:
        values[:] = [value()]
        return is_ready(values[0])

    eventually(look)
    return values[0]


def note_where(item: dict[str, Any]) -> dict[str, Any]:
    """A task that tells its machine after a while."""
    import ray

    time.sleep(0.5)
    return {"number": item["number"], "node": ray.get_runtime_context().get_node_id()}
