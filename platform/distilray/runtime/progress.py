"""Progress of long work, as a bar on a terminal or as log lines, and user-facing notices of a run."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from distilray.runtime import storage
from distilray.runtime.signals import raise_if_interrupted

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

NOTICES_FOLDER = "notices"
_WIDE = 120  # columns of a terminal with room for a long bar

log = logging.getLogger(__name__)


class Progress:
    """Context manager that displays completed units of work, the rate and the time left.

    On a terminal it is a bar. Otherwise it is a line every `interval_s` seconds, even if no unit is completed.
    Units that an earlier attempt completed are set with `start_at` and do not affect the rate.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None,
        unit: str,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._interval_s, self._clock = interval_s, clock
        self._stream = stream or sys.stderr
        self._done, self._base, self._note = 0, 0, ""
        self._started = self._shown = clock()
        self._bar: ProgressBar | None = None
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = _progress_bar(self._stream)
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._done, text="")
            self._bar.start()
            self._show()
        self._ticker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._ticker.join()
        if self._bar is not None:
            self._bar.stop()

    def start_at(self, done: int) -> None:
        """Set the number of units that earlier attempts completed."""
        self._done = self._base = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def advance_to(self, done: int, note: str = "") -> None:
        """Set the number of completed units, and a note to display after it.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, even if a library has swallowed the interrupt.
        """
        raise_if_interrupted()
        self._done, self._note = done, note
        self._show()

    def advance(self, units: int = 1, note: str = "") -> None:
        self.advance_to(self._done + units, note)

    def line(self, now: float) -> str:
        """Return the log line: completed units, share, rate, time left, note."""
        rate, time_left = self._speed(now)
        share = f" ({self._done / self.total:.0%})" if self.total else ""
        return ", ".join(filter(None, [f"{self.label}: {self._count()}{share}", rate, time_left, self._note]))

    def _tick(self) -> None:
        while not self._stopped.wait(self._interval_s if self._bar is None else 1.0):
            self._show()

    def _show(self) -> None:
        """Update the bar, or print a line if it is time for one."""
        now = self._clock()
        with self._lock:
            if self._bar is not None:
                rate, time_left = self._speed(now)
                text = ", ".join(filter(None, [self._count(), time_left, rate, self._note]))
                self._bar.update(self._task, completed=self._done, text=text)
            elif now - self._shown >= self._interval_s:
                self._shown = now
                print(self.line(now), file=self._stream, flush=True)

    def _count(self) -> str:
        return f"{self._done:,}/{self.total:,} {self.unit}" if self.total else f"{self._done:,} {self.unit}"

    def _speed(self, now: float) -> tuple[str, str]:
        """Return rate and time left, once there is progress. Rates below 0.1 per second are displayed per minute."""
        if self._done <= self._base:
            return "", ""
        rate = (self._done - self._base) / max(now - self._started, 1e-9)
        text = f"{rate:,.1f} {self.unit}/s" if rate >= 0.1 else f"{60 * rate:,.1f} {self.unit}/min"
        return text, f"ETA {format_duration((self.total - self._done) / rate)}" if self.total else ""


def _progress_bar(stream: TextIO) -> ProgressBar:
    """Return a bar between a label and a text that is cut off at the edge of the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as ProgressBar
    from rich.table import Column

    console = Console(file=stream)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30 if console.width >= _WIDE else 10),
        TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    # If stdout is not a terminal, its output must not be printed above the bar on stderr.
    return ProgressBar(*columns, console=console, transient=True, expand=True, redirect_stdout=sys.stdout.isatty())


def format_duration(seconds: float) -> str:
    """Format a duration: `45 s`, `12 min 05 s`, `3 h 20 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def post_notice(run_uri: str, text: str) -> None:
    """Publish a notice: log it in this process and write it to a file in the run folder."""
    log.warning("%s", text)
    now = time.time_ns()
    record = {"time": now / 1e9, "text": text}
    storage.write_bytes(storage.join(run_uri, NOTICES_FOLDER, f"{now}-{os.getpid()}.json"), json.dumps(record).encode())


def read_notices(run_uri: str) -> list[str]:
    """Return the notices of a run in chronological order."""
    return [text for _, text in _read_notices(run_uri)]


class NoticeFollower:
    """Context manager that calls `on_notice` with each notice published while the block runs."""

    def __init__(self, run_uri: str, on_notice: Callable[[str], None], interval_s: float = 1.0) -> None:
        self._run_uri, self._on_notice, self._interval_s = run_uri, on_notice, interval_s
        self._known = {name for name, _ in _read_notices(run_uri)}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="notices", daemon=True)

    def __enter__(self) -> NoticeFollower:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._show()

    def _follow(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        for name, text in _read_notices(self._run_uri, self._known):
            self._known.add(name)
            self._on_notice(text)


def _read_notices(run_uri: str, known: set[str] | None = None) -> list[tuple[str, str]]:
    """Return name and text of the notices that are not in `known`."""
    folder = storage.join(run_uri, NOTICES_FOLDER)
    if not storage.exists(folder):
        return []
    names = [file.rpartition("/")[2] for file in storage.list_files(folder, ".json")]
    new = sorted(set(names) - (known or set()))
    return [(name, json.loads(storage.read_bytes(storage.join(folder, name)))["text"]) for name in new]
