"""Progress of long work, as a bar on a terminal or as log lines, and user-facing notices of a run."""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

from distilray.runtime import storage
from distilray.runtime.signals import raise_if_interrupted

NOTICES_FOLDER = "notices"

log = logging.getLogger(__name__)


class Progress:
    """Context manager that displays completed units of work, the rate and the time left.

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
        self._bar: RichProgress | None = None

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = RichProgress(
                *columns, TextColumn("{task.fields[note]}"), console=Console(file=self._stream), transient=True
            )
            self._task = self._bar.add_task(self.label, total=self.total, note="")
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
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
        now = self._clock()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=", ".join(self._details(now)))
        elif now - self._shown >= self._interval_s:
            self._shown = now
            print(self.line(now), file=self._stream, flush=True)

    def advance(self, units: int = 1, note: str = "") -> None:
        self.advance_to(self._done + units, note)

    def line(self, now: float) -> str:
        """Return the log line: completed units, share, rate, time left, note."""
        done = f"{self.label}: {self._done:,}"
        if self.total:
            done += f"/{self.total:,} {self.unit} ({self._done / self.total:.0%})"
        return ", ".join([done, *self._details(now)])

    def _details(self, now: float) -> list[str]:
        """Return rate, time left and note. Rates below 0.1 per second are displayed per minute."""
        rate = max(0, self._done - self._base) / max(now - self._started, 1e-9)
        details = [f"{rate:,.1f} {self.unit}/s" if rate >= 0.1 else f"{60 * rate:,.1f} {self.unit}/min"]
        if self.total and rate > 0:
            details.append(f"ETA {format_duration((self.total - self._done) / rate)}")
        return [*details, self._note] if self._note else details


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

    def __enter__(self) -> "NoticeFollower":
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
