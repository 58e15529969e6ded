"""Finds a worker that hangs: names it, saves the stacks of all, and ends the processes, so that Ray Train starts anew.

When one worker stops moving, all others soon wait for it in a collective operation, so that nobody moves. Each worker
then writes where it is. All come through the same places in the same order, so the one that hangs is the one that has
come through fewer of them than the others; or it is so dead that it writes nothing.
"""

import faulthandler
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from distilray.runtime import storage
from distilray.training.loop import Hook

HANGS_FOLDER = "hangs"
EXIT_HANGS = 75
_PATIENCE_S = 5.0

log = logging.getLogger(__name__)


class Watchdog(Hook):
    """Watches over this worker. Use it as a context manager, and call `works` in long phases.

    Args:
        folder: where what was found is written, path or URI.
        timeout_s: without a move for so long a worker is taken to hang.
        notice: takes the verdict.
        end: called at the end; by default the process exits at once.
    """

    phase = "watchdog"

    def __init__(
        self,
        folder: str,
        *,
        rank: int,
        num_workers: int,
        timeout_s: float,
        notice: Callable[[str], None],
        end: Callable[[], None] = lambda: os._exit(EXIT_HANGS),
    ) -> None:
        self._folder, self._rank, self._num_workers, self._timeout_s = folder, rank, num_workers, timeout_s
        self._notice, self._end = notice, end
        self._place: tuple[int, int, str] = (0, 0, "start")
        self._moves, self._at, self._born = 0, time.monotonic(), time.time()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Note that the worker has moved; every worker has the same phases in the same order."""
        self._place, self._moves, self._at = (step, micro_step, phase), self._moves + 1, time.monotonic()

    def heartbeat(self) -> None:
        """A part of a phase was done, of which other workers may have more or fewer."""
        self._at = time.monotonic()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._at > self._timeout_s:
                try:
                    self._tell()
                except Exception:  # a full disk must not keep a worker that hangs
                    log.exception("a hang that could not be told")
                self._end()
                return

    def _tell(self) -> None:
        """Writes where this worker is, waits for the others to do the same, and says who is behind."""
        started = time.time()
        step, micro_step, phase = self._place
        record = {"rank": self._rank, "step": step, "micro_step": micro_step, "phase": phase}
        record |= {"moves": self._moves, "host": socket.gethostname(), "pid": os.getpid(), "time": started}
        with tempfile.TemporaryFile() as stacks:
            faulthandler.dump_traceback(stacks, all_threads=True)
            stacks.seek(0)
            text = json.dumps(record) + "\n\n" + stacks.read().decode()
        storage.write_bytes(self._file(self._rank), text.encode())
        # The others stopped moving at most one timeout and two looks later, unless they cannot write at all. What was
        # written before this worker began is of an earlier attempt.
        deadline = started + max(_PATIENCE_S, self._timeout_s / 2)
        since = max(self._born, started - 2 * self._timeout_s)
        found = self._read(since)
        while len(found) < self._num_workers and time.time() < deadline:
            time.sleep(0.2)
            found = self._read(since)
        verdict = _verdict(found, self._num_workers, self._timeout_s)
        if self._rank == min(int(str(record["rank"])) for record in found):
            self._notice(f"{verdict}; stacks in {self._folder}, the workers start anew")

    def _read(self, since: float) -> list[dict[str, object]]:
        found = []
        for rank in range(self._num_workers):
            if storage.exists(self._file(rank)):
                record = json.loads(storage.read_bytes(self._file(rank)).partition(b"\n")[0])
                if record["time"] >= since:
                    found.append(record)
        return found

    def _file(self, rank: int) -> str:
        return storage.join(self._folder, f"rank-{rank}.txt")


def _verdict(found: Sequence[dict[str, object]], num_workers: int, timeout_s: float) -> str:
    """Which worker hangs, in one line."""
    there = {record["rank"] for record in found}
    absent = [rank for rank in range(num_workers) if rank not in there]
    head = f"NOTHING HAS MOVED FOR {timeout_s:g} s"
    if absent:
        return f"{head}: rank {', '.join(map(str, absent))} gives no sign of life"
    fewest = min(int(str(record["moves"])) for record in found)
    behind = [record for record in found if record["moves"] == fewest]
    if len(behind) == num_workers:
        return f"{head}: all {num_workers} workers hang at the same place, {_where(behind[0])}"
    return f"{head}: " + ", ".join(f"rank {record['rank']} hangs in {_where(record)}" for record in behind)


def _where(record: dict[str, object]) -> str:
    return f"'{record['phase']}' of step {record['step']} on {record['host']} (pid {record['pid']})"
