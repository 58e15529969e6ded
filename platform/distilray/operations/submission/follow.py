"""Follows a job until it ends, through breaks of its log stream, or stops it."""

import re
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from distilray.errors import InputError
from distilray.operations.submission.cluster import (
    PENDING,
    STOPPED,
    SUCCEEDED,
    Cluster,
    ClusterError,
    JobRecord,
    UnreachableError,
)
from distilray.runtime.command_line import EXIT_FAULT, EXIT_INTERRUPTED
from distilray.runtime.reporting.progress import duration

_EXIT_CODE = re.compile(r"command failed with exit code (-?\d+)")
_STOP_GRACE_S = 5.0  # a job whose driver can start is stopped by Ray within this time
_STOP_LIMIT_S = 120.0
_SIGNAL_BASE = 128  # a shell's code of a command that a signal ended


class WaitedTooLongError(Exception):
    """The limit of a wait is over; the job itself is left alone. The message is one line."""


@dataclass(frozen=True)
class Timing:
    """Seconds, and how they pass.

    Attributes:
        pending_limit_s: how long a job may wait for its place.
        lost_limit_s: how long the cluster may stay without an answer.
        quiet_s: without news from a stream, after which it is asked for anew; doubles while there are none.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    pending_limit_s: float = 15 * 60
    lost_limit_s: float = 15 * 60
    poll_s: float = 2.0
    say_s: float = 15.0
    quiet_s: float = 60.0


class PrintedOnce:
    """Prints what is new of a text that only grows and arrives again and again from its beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._printed = 0  # characters of the log that were written
        self._position = 0  # characters that the current connection has sent

    def rewind(self) -> None:
        """A connection begins: the text comes from its beginning."""
        self._position = 0

    def feed(self, text: str) -> bool:
        """Prints the part of the next piece that was not printed yet; says whether there was any."""
        known = self._printed - self._position
        self._position += len(text)
        fresh = text[max(0, known) :]
        if not fresh:
            return False
        self._printed = self._position
        self._write(fresh)
        return True

    def complete(self, whole: str) -> None:
        """Prints the rest of a log that has ended."""
        self.rewind()
        self.feed(whole)


class Follower:
    """Prints the log of one job, each line once, and waits for its end.

    Args:
        write: takes pieces of the log.
        say: takes lines about it.
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
        self._log = PrintedOnce(write)
        self._quiet_s = timing.quiet_s

    def follow(self) -> JobRecord:
        """The job after its end.

        Raises:
            WaitedTooLongError: it did not start, or the cluster did not answer, in time.
            ClusterError: the cluster refuses to answer.
        """
        record = self._wait_for_start()
        while not record.ended:
            if not self._stream():
                self._timing.sleep(self._timing.poll_s)
            record = self._look()
        with suppress(UnreachableError):  # the end of the log is lost then, its exit code is not
            self._log.complete(self._cluster.log(self._id))
        return record

    def _wait_for_start(self) -> JobRecord:
        started = said = self._timing.clock()
        record = self._look()
        while record.status == PENDING:
            now = self._timing.clock()
            reason = " ".join(record.message.split()) or "Ray gives no reason"
            if now - started > self._timing.pending_limit_s:
                raise WaitedTooLongError(f"still {record.describe_status()} after {duration(now - started)}: {reason}")
            if now - said >= self._timing.say_s:
                said = now
                self._say(f"{record.describe_status()} for {duration(now - started)}: {reason}")
            self._timing.sleep(self._timing.poll_s)
            record = self._look()
        return record

    def _stream(self) -> bool:
        """Prints what a connection brings until it ends, breaks or has nothing new; whether it brought anything."""
        self._log.rewind()
        news, last = False, self._timing.clock()
        try:
            with closing(self._cluster.tail(self._id)) as pieces:
                for piece in pieces:
                    if piece is not None and self._log.feed(piece):
                        news, last = True, self._timing.clock()
                        self._quiet_s = self._timing.quiet_s
                    elif piece is None and self._is_over(last):
                        break
        except UnreachableError as error:
            self._say(f"the log stream broke ({error}); connecting again")
        return news

    def _is_over(self, last: float) -> bool:
        """Whether a silent stream is not worth waiting for: the job has ended, or the connection may be dead."""
        if self._timing.clock() - last > self._quiet_s:
            self._quiet_s *= 2
            return True
        return self._look().ended

    def _look(self) -> JobRecord:
        """The job now; asks until there is an answer."""
        since = self._timing.clock()
        while True:
            try:
                record = self._cluster.job(self._id)
            except UnreachableError as error:
                waited = self._timing.clock() - since
                if waited > self._timing.lost_limit_s:
                    raise WaitedTooLongError(f"no answer for {duration(waited)}: {error}") from None
                self._say(f"{error}; trying again")
                self._timing.sleep(min(30.0, self._timing.poll_s + waited / 4))
                continue
            if record is None:
                raise WaitedTooLongError("the cluster does not know the job any more; was its head started anew?")
            return record


def exit_code_of(record: JobRecord) -> int:
    """The exit code of a job's command, as a shell would give it.

    0 if it succeeded; that of the command where Ray knows it; 130 if the job was stopped; else 1.
    """
    if record.status == SUCCEEDED:
        return 0
    code = record.driver_exit_code
    if code is None and (found := _EXIT_CODE.search(record.message)):
        code = int(found.group(1))
    if not code:
        return EXIT_INTERRUPTED if record.status == STOPPED else EXIT_FAULT
    return code if code > 0 else _SIGNAL_BASE - code


def stop_job(cluster: Cluster, job_id: str, timing: Timing, *, say: Callable[[str], object]) -> None:
    """Stops a job, also one that is pending, which `ray job stop` leaves in the queue, and waits until it has ended.

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
            raise ClusterError(f"{job_id}: still {record.status} {duration(waited)} after the request to stop it")
        if record.status == PENDING and waited >= _STOP_GRACE_S and not killed:
            say(f"{job_id} is waiting for {record.resources or 'its driver'}; removing it from the queue")
            cluster.kill_pending(job_id)
            killed = True
        timing.sleep(timing.poll_s)
        record = cluster.job(job_id)
    say(f"{job_id} is stopped" if record is None else f"{job_id} is stopped ({record.status})")


def stop_command(address: str, job_id: str) -> str:
    """Returns the command that stops a job."""
    return f"python -m jobs.submit --address {address} --stop {job_id}"
