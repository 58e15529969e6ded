"""Child processes of the GPU benchmark, with a time limit for each cell."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks.gpu.cells import Cell

START_LIMIT_S = 120.0  # imports, models and examples
STOPPED, CRASHED, FAILED = "stopped", "crashed", "failed"
BAD_ENDS = (CRASHED, FAILED)
Event = dict[str, Any]


class Process:
    """Python module that reads JSON from stdin and prints JSON objects. Lines that are not JSON go to stderr.

    The process has its own temporary folder, because the code that torch compiles there is damaged if it is killed.
    """

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": self._folder.name},
        )
        self._events: queue.Queue[Event | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            json.dump(settings, stdin)

    def next(self, timeout: float) -> Event | None:
        """Return the next object, or None after the end of the process.

        Raises:
            queue.Empty: there is none within `timeout` seconds.
        """
        return self._events.get(timeout=max(0.0, timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            try:
                self._events.put(json.loads(text))
            except ValueError:
                print(text, end="", file=sys.stderr)
        self._events.put(None)


class Projections(Process):
    """Process that projects the steps among some cells, while they are measured."""

    def __init__(self, device_name: str, cells: Sequence[Cell], length: int) -> None:
        steps = [vars(cell) for cell in cells if cell.kind == "step"]
        super().__init__("benchmarks.gpu.projection", {"device": device_name, "length": length, "cells": steps})

    def collect(self, timeout: float) -> list[Event]:
        """Return the projections that are complete within `timeout` seconds."""
        projections: list[Event] = []
        limit = time.time() + timeout
        with contextlib.suppress(queue.Empty):
            while (event := self.next(limit - time.time())) is not None:
                projections.append(event)
        return projections


def measure(
    settings: Mapping[str, Any],
    cells: Sequence[Cell],
    deadline: float,
    *,
    patience: float = 1.0,
    module: str = "benchmarks.gpu.worker",
) -> Iterator[Event]:
    """Run cells, and yield the `device` and the `result` of each cell that could start before the deadline.

    A cell that exceeds its time limit, or whose process ends, is reported as such; a new process runs the others.

    Args:
        deadline: seconds since the epoch.
        patience: factor of all time limits.

    Raises:
        RuntimeError: the process ended or hung before its first cell.
    """
    pending = list(cells)
    while pending and time.time() < deadline:
        values = {**settings, "deadline": deadline, "cells": [vars(cell) for cell in pending]}
        with Process(module, values) as process:
            failure = yield from _follow(process, pending, deadline, patience)
        if failure is None:
            return
        yield {"result": {**pending.pop(0).record(), **failure}}


def _follow(
    process: Process, pending: list[Cell], deadline: float, patience: float
) -> Generator[Event, None, Event | None]:
    """Yield the events of a process, and remove its completed cells. Return the failure that ends it, or None."""
    current: str | None = None
    started = time.time()
    limit = started + patience * START_LIMIT_S
    while True:
        status, message = CRASHED, "the process ended"
        try:
            event = process.next(limit - time.time())
        except queue.Empty:
            event, status, message = None, STOPPED, "time limit"
        if event is None and current is None:
            raise RuntimeError(f"{message} before a measurement started")
        if event is None:
            return {"status": status, "message": message, "seconds": time.time() - started}
        if "end" in event:
            return None
        if "start" in event:
            current, started = event["start"], time.time()
            limit = min(started + patience * pending[0].limit_s, max(deadline, started + 1))
            continue
        if "result" in event:
            assert event["result"]["cell"] == pending.pop(0).name == current
        yield event
