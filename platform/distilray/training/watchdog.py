"""Watchdog that detects hanging workers, saves the stacks of all workers, and exits so that Ray Train restarts them.

When one worker hangs, the others soon wait for it in a collective operation. Each worker then writes how many phases it
has entered. All workers enter the same phases in the same order, so the hanging worker is the one with the fewest, or
one that writes nothing.
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
HANG_EXIT_CODE = 75
_MIN_WAIT_S = 5.0  # for the reports of the other workers

log = logging.getLogger(__name__)


class Watchdog(Hook):
    """Hook that watches this worker; a context manager. Call `heartbeat` during long phases.

    Args:
        folder: folder for the reports of the workers; path or URI.
        timeout_s: a worker that makes no progress for this time hangs.
        notice: receives the diagnosis in one line.
        exit_process: called after a hang; by default, exits with `HANG_EXIT_CODE` at once.
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
        exit_process: Callable[[], None] = lambda: os._exit(HANG_EXIT_CODE),
    ) -> None:
        self._folder, self._rank, self._num_workers, self._timeout_s = folder, rank, num_workers, timeout_s
        self._notice, self._exit_process = notice, exit_process
        self._phase: tuple[int, int, str] = (0, 0, "start")
        self._phases_entered, self._progress_at, self._started = 0, time.monotonic(), time.time()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Count the phase, which all workers enter in the same order."""
        self._phase, self._phases_entered, self._progress_at = (
            (step, micro_step, phase),
            self._phases_entered + 1,
            time.monotonic(),
        )

    def heartbeat(self) -> None:
        """Report progress within a phase, which is not counted because it differs between workers."""
        self._progress_at = time.monotonic()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._progress_at > self._timeout_s:
                try:
                    self._report()
                except Exception:  # the process must exit even if the disk is full
                    log.exception("failed to report the hang")
                self._exit_process()
                return

    def _report(self) -> None:
        """Write the position and the stacks of this worker, wait for the others, and publish the diagnosis."""
        now = time.time()
        step, micro_step, phase = self._phase
        record = {"rank": self._rank, "step": step, "micro_step": micro_step, "phase": phase}
        record |= {
            "phases_entered": self._phases_entered,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": now,
        }
        with tempfile.TemporaryFile() as stacks:
            faulthandler.dump_traceback(stacks, all_threads=True)
            stacks.seek(0)
            text = json.dumps(record) + "\n\n" + stacks.read().decode()
        storage.write_bytes(self._file(self._rank), text.encode())
        # The others time out at about the same time, unless they cannot write at all. Older reports are from an earlier
        # attempt.
        deadline = now + max(_MIN_WAIT_S, self._timeout_s / 2)
        since = max(self._started, now - 2 * self._timeout_s)
        records = self._read_records(since)
        while len(records) < self._num_workers and time.time() < deadline:
            time.sleep(0.2)
            records = self._read_records(since)
        if self._rank == min(int(str(record["rank"])) for record in records):
            diagnosis = _diagnose(records, self._num_workers, self._timeout_s)
            self._notice(f"{diagnosis}; stacks in {self._folder}, restarting the workers")

    def _read_records(self, since: float) -> list[dict[str, object]]:
        records = []
        for rank in range(self._num_workers):
            if storage.exists(self._file(rank)):
                record = json.loads(storage.read_bytes(self._file(rank)).partition(b"\n")[0])
                if record["time"] >= since:
                    records.append(record)
        return records

    def _file(self, rank: int) -> str:
        return storage.join(self._folder, f"rank-{rank}.txt")


def _diagnose(records: Sequence[dict[str, object]], num_workers: int, timeout_s: float) -> str:
    """Describe in one line which workers hang."""
    responding = {record["rank"] for record in records}
    silent = [rank for rank in range(num_workers) if rank not in responding]
    head = f"NO PROGRESS FOR {timeout_s:g} s"
    if silent:
        return f"{head}: rank {', '.join(map(str, silent))} is not responding"
    fewest = min(int(str(record["phases_entered"])) for record in records)
    behind = [record for record in records if record["phases_entered"] == fewest]
    if len(behind) == num_workers:
        return f"{head}: all {num_workers} workers hang in {_describe_phase(behind[0])}"
    return f"{head}: " + ", ".join(f"rank {record['rank']} hangs in {_describe_phase(record)}" for record in behind)


def _describe_phase(record: dict[str, object]) -> str:
    return f"'{record['phase']}' of step {record['step']} on {record['host']} (pid {record['pid']})"
