"""Follow a job until it ends, reconnecting when the connection is lost, or stop it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distilray.errors import InputError
from distilray.operations.submit.job_records import (
    PENDING,
    STOPPED,
    SUCCEEDED,
    ClusterError,
    JobRecord,
    UnreachableError,
)
from distilray.runtime.command_line import EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED
from distilray.runtime.progress import format_duration

if TYPE_CHECKING:
    from distilray.operations.submit.client import ClusterClient

_EXIT_CODE = re.compile(r"command failed with exit code (-?\d+)")
_STOP_GRACE_S = 5.0  # Ray stops a job whose driver can start within this time
_STOP_LIMIT_S = 120.0
_SIGNAL_BASE = 128  # added to the signal number by a shell


class FollowTimeoutError(Exception):
    """The client gave up waiting, but the job itself continues. The message is one line."""


@dataclass(frozen=True)
class Timing:
    """Clock and limits, in seconds.

    Attributes:
        pending_limit_s: maximum time until the job starts.
        lost_limit_s: maximum time without a response from the cluster.
        poll_s: time between two requests for the status of the job.
        report_every_s: time between two messages about a pending job.
        quiet_s: time without new output after which the client reconnects; doubles while nothing arrives.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    pending_limit_s: float = 15 * 60
    lost_limit_s: float = 15 * 60
    poll_s: float = 2.0
    report_every_s: float = 15.0
    quiet_s: float = 60.0


class LogPrinter:
    """Prints each part of a log once, although every connection sends the log from its start."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._printed = 0  # characters of the log
        self._position = 0  # characters received on the current connection

    def rewind(self) -> None:
        """Start over for a new connection."""
        self._position = 0

    def feed(self, text: str) -> bool:
        """Print the new part of the next chunk and return whether there is any."""
        new = text[max(0, self._printed - self._position) :]
        self._position += len(text)
        if new:
            self._printed = self._position
            self._write(new)
        return bool(new)


class Follower:
    """Prints the log of a job and waits for its end.

    Args:
        write: prints a chunk of the log.
        notify: prints a message to the user.
    """

    def __init__(
        self,
        cluster: ClusterClient,
        job_id: str,
        timing: Timing,
        *,
        write: Callable[[str], object],
        notify: Callable[[str], object],
    ) -> None:
        self._cluster, self._id, self._timing, self._notify = cluster, job_id, timing, notify
        self._log = LogPrinter(write)
        self._quiet_s = timing.quiet_s

    def follow(self) -> JobRecord:
        """Follow the job to its end and return its final record.

        Raises:
            FollowTimeoutError: the job did not start in time, or the cluster did not respond in time.
            ClusterError: the cluster rejects the requests.
        """
        record = self._wait_for_start()
        while not record.ended:
            if not self._stream():
                self._timing.sleep(self._timing.poll_s)
            record = self._current_record()
        with suppress(UnreachableError):  # only the end of the log is lost, not the exit code
            self._log.rewind()
            self._log.feed(self._cluster.log(self._id))
        return record

    def _wait_for_start(self) -> JobRecord:
        started = reported = self._timing.clock()
        while (record := self._current_record()).status == PENDING:
            now = self._timing.clock()
            reason = " ".join(record.message.split()) or "Ray gives no reason"
            if now - started > self._timing.pending_limit_s:
                raise FollowTimeoutError(
                    f"still {record.describe_status()} after {format_duration(now - started)}: {reason}"
                )
            if now - reported >= self._timing.report_every_s:
                reported = now
                self._notify(f"{record.describe_status()} for {format_duration(now - started)}: {reason}")
            self._timing.sleep(self._timing.poll_s)
        return record

    def _stream(self) -> bool:
        """Print the log from one connection until it closes or may be dead; return whether there was any output."""
        self._log.rewind()
        printed_any, last_output = False, self._timing.clock()
        try:
            with closing(self._cluster.tail(self._id)) as chunks:
                for chunk in chunks:
                    if chunk is not None and self._log.feed(chunk):
                        printed_any, last_output = True, self._timing.clock()
                        self._quiet_s = self._timing.quiet_s
                    elif chunk is None and self._should_reconnect(last_output):
                        break
        except UnreachableError as error:
            self._notify(f"the log stream was interrupted ({error}); reconnecting")
        return printed_any

    def _should_reconnect(self, last_output: float) -> bool:
        """Return whether to close a silent connection: the job has ended, or the connection may be dead."""
        if self._timing.clock() - last_output > self._quiet_s:
            self._quiet_s *= 2
            return True
        return self._current_record().ended

    def _current_record(self) -> JobRecord:
        """Return the current record of the job, retrying until the cluster responds."""
        since = self._timing.clock()
        while True:
            try:
                record = self._cluster.job(self._id)
                break
            except UnreachableError as error:
                waited = self._timing.clock() - since
                if waited > self._timing.lost_limit_s:
                    raise FollowTimeoutError(f"no response for {format_duration(waited)}: {error}") from None
                self._notify(f"{error}; trying again")
                self._timing.sleep(min(30.0, self._timing.poll_s + waited / 4))
        if record is None:
            raise FollowTimeoutError("the cluster no longer knows the job; was its head restarted?")
        return record


def exit_code_of(record: JobRecord) -> int:
    """Return the exit code of a job's command, as a shell would report it.

    It is 0 if the job succeeded. Otherwise it is that of the command, or if Ray does not know it, 130 for a stopped job
    and 1 for a failed one.
    """
    if record.status == SUCCEEDED:
        return 0
    code = record.driver_exit_code
    if code is None and (match := _EXIT_CODE.search(record.message)):
        code = int(match[1])
    if not code:
        return EXIT_INTERRUPTED if record.status == STOPPED else EXIT_INTERNAL_ERROR
    return code if code > 0 else _SIGNAL_BASE - code


def stop_job(cluster: ClusterClient, job_id: str, timing: Timing, *, notify: Callable[[str], object]) -> None:
    """Stop a job and wait for its end. Unlike `ray job stop`, this also removes a pending job from the queue.

    Raises:
        InputError: the cluster has no such job.
        ClusterError: the job has not ended within two minutes.
    """
    record = cluster.job(job_id)
    if record is None:
        raise InputError(f"{job_id}: no such job on {cluster.address}; `ray job list` shows the ids")
    if record.ended:
        notify(f"{job_id} has already ended ({record.status})")
        return
    cluster.stop(job_id)
    started, killed = timing.clock(), False
    while record is not None and not record.ended:
        waited = timing.clock() - started
        if waited > _STOP_LIMIT_S:
            raise ClusterError(
                f"{job_id}: still {record.status} {format_duration(waited)} after the request to stop it"
            )
        if record.status == PENDING and waited >= _STOP_GRACE_S and not killed:
            notify(f"{job_id} is waiting for {record.resources or 'its driver'}; removing it from the queue")
            cluster.kill_pending(job_id)
            killed = True
        timing.sleep(timing.poll_s)
        record = cluster.job(job_id)
    notify(f"{job_id} is stopped" if record is None else f"{job_id} is stopped ({record.status})")
