"""Follows a job until it ends, even if its log stream breaks, or stops it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distilray.errors import InputError
from distilray.operations.submit.records import PENDING, STOPPED, SUCCEEDED, ClusterError, JobRecord, UnreachableError
from distilray.runtime.command_line import EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED
from distilray.runtime.progress import format_duration

if TYPE_CHECKING:
    from distilray.operations.submit.client import Cluster

_EXIT_CODE = re.compile(r"command failed with exit code (-?\d+)")
_STOP_GRACE_S = 5.0  # a job whose driver can start is stopped by Ray within this time
_STOP_LIMIT_S = 120.0
_SIGNAL_BASE = 128  # a shell's code of a command that a signal ended


class FollowTimeoutError(Exception):
    """The limit of a wait is over; the job itself continues. The message is one line."""


@dataclass(frozen=True)
class Timing:
    """Clock and limits, in seconds.

    Attributes:
        pending_limit_s: maximum wait for the start of the job.
        lost_limit_s: maximum time without an answer from the cluster.
        quiet_s: time without new log after which the stream is replaced; doubles while nothing arrives.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    pending_limit_s: float = 15 * 60
    lost_limit_s: float = 15 * 60
    poll_s: float = 2.0
    say_s: float = 15.0
    quiet_s: float = 60.0


class LogPrinter:
    """Prints the new part of a text that only grows and is sent repeatedly from its beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._printed = 0  # characters of the log that were written
        self._position = 0  # characters that the current connection has sent

    def rewind(self) -> None:
        """Start a connection, which sends the text from its beginning."""
        self._position = 0

    def feed(self, text: str) -> bool:
        """Print the new part of the next piece; return whether there was any."""
        fresh = text[max(0, self._printed - self._position) :]
        self._position += len(text)
        if fresh:
            self._printed = self._position
            self._write(fresh)
        return bool(fresh)


class Follower:
    """Prints the log of one job, each line once, and waits for its end.

    Args:
        write: prints pieces of the log.
        say: prints lines about it.
    """

    def __init__(
        self,
        cluster: Cluster,
        job_id: str,
        timing: Timing,
        *,
        write: Callable[[str], object],
        say: Callable[[str], object],
    ) -> None:
        self._cluster, self._id, self._timing, self._say = cluster, job_id, timing, say
        self._log = LogPrinter(write)
        self._quiet_s = timing.quiet_s

    def follow(self) -> JobRecord:
        """Return the job after its end.

        Raises:
            FollowTimeoutError: it did not start, or the cluster did not answer, in time.
            ClusterError: the cluster refuses to answer.
        """
        record = self._wait_for_start()
        while not record.ended:
            if not self._stream():
                self._timing.sleep(self._timing.poll_s)
            record = self._look()
        with suppress(UnreachableError):  # the end of the log is lost then, its exit code is not
            self._log.rewind()
            self._log.feed(self._cluster.log(self._id))
        return record

    def _wait_for_start(self) -> JobRecord:
        started = said = self._timing.clock()
        while (record := self._look()).status == PENDING:
            now = self._timing.clock()
            reason = " ".join(record.message.split()) or "Ray gives no reason"
            if now - started > self._timing.pending_limit_s:
                raise FollowTimeoutError(
                    f"still {record.describe_status()} after {format_duration(now - started)}: {reason}"
                )
            if now - said >= self._timing.say_s:
                said = now
                self._say(f"{record.describe_status()} for {format_duration(now - started)}: {reason}")
            self._timing.sleep(self._timing.poll_s)
        return record

    def _stream(self) -> bool:
        """Print a connection's log until it ends, breaks or has nothing new; return whether anything was printed."""
        self._log.rewind()
        has_news, last = False, self._timing.clock()
        try:
            with closing(self._cluster.tail(self._id)) as pieces:
                for piece in pieces:
                    if piece is not None and self._log.feed(piece):
                        has_news, last = True, self._timing.clock()
                        self._quiet_s = self._timing.quiet_s
                    elif piece is None and self._is_over(last):
                        break
        except UnreachableError as error:
            self._say(f"the log stream broke ({error}); connecting again")
        return has_news

    def _is_over(self, last: float) -> bool:
        """Return whether to leave a silent stream: the job has ended, or the connection may be dead."""
        if self._timing.clock() - last > self._quiet_s:
            self._quiet_s *= 2
            return True
        return self._look().ended

    def _look(self) -> JobRecord:
        """Return the current record; ask until there is an answer."""
        since = self._timing.clock()
        while True:
            try:
                record = self._cluster.job(self._id)
                break
            except UnreachableError as error:
                waited = self._timing.clock() - since
                if waited > self._timing.lost_limit_s:
                    raise FollowTimeoutError(f"no answer for {format_duration(waited)}: {error}") from None
                self._say(f"{error}; trying again")
                self._timing.sleep(min(30.0, self._timing.poll_s + waited / 4))
        if record is None:
            raise FollowTimeoutError("the cluster does not know the job any more; was its head started anew?")
        return record


def exit_code_of(record: JobRecord) -> int:
    """Return the exit code of a job's command, as a shell would.

    0 if it succeeded; that of the command where Ray knows it; 130 if the job was stopped; else 1.
    """
    if record.status == SUCCEEDED:
        return 0
    code = record.driver_exit_code
    if code is None and (match := _EXIT_CODE.search(record.message)):
        code = int(match[1])
    if not code:
        return EXIT_INTERRUPTED if record.status == STOPPED else EXIT_INTERNAL_ERROR
    return code if code > 0 else _SIGNAL_BASE - code


def stop_job(cluster: Cluster, job_id: str, timing: Timing, *, say: Callable[[str], object]) -> None:
    """Stop a job, even a pending one, which `ray job stop` leaves in the queue, and wait for its end.

    Raises:
        InputError: the cluster has no such job.
        ClusterError: it has not ended in two minutes.
    """
    record = cluster.job(job_id)
    if record is None:
        raise InputError(f"{job_id}: no such job on {cluster.address}; `ray job list` shows the ids")
    if record.ended:
        say(f"{job_id} has already ended ({record.status})")
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
            say(f"{job_id} is waiting for {record.resources or 'its driver'}; removing it from the queue")
            cluster.kill_pending(job_id)
            killed = True
        timing.sleep(timing.poll_s)
        record = cluster.job(job_id)
    say(f"{job_id} is stopped" if record is None else f"{job_id} is stopped ({record.status})")
