"""Fake cluster whose jobs, logs and errors follow a script, with a clock that only the client advances."""

from collections.abc import Generator, Iterable
from dataclasses import replace

from distilray.operations.submit.follow import Timing
from distilray.operations.submit.job_records import DuplicateJobError, JobRecord, Submission, UnreachableError

TICK = 5.0  # seconds until a silent stream yields None
DROP = "drop"  # marks the point at which a connection breaks
SILENCE = None
GONE = UnreachableError("http://head:8265: no answer")


class ManualClock:
    """Clock that advances only during sleep."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ScriptedCluster:
    """Implements the interface of `ClusterClient`.

    Args:
        looks: responses to requests for the job, in turn; the last one repeats. Errors are raised.
        connections: pieces of the log on each connection, in turn; the last one repeats.
        text: the whole log.
    """

    address = "http://head:8265"

    def __init__(
        self,
        looks: Iterable[JobRecord | Exception | None] = (),
        connections: Iterable[list[str | None]] = (),
        text: str = "",
        known: Iterable[JobRecord] = (),
        clock: ManualClock | None = None,
    ) -> None:
        self.looks, self.connections = list(looks), list(connections)
        self.text, self.known = text, list(known)
        self.clock = clock or ManualClock()
        self.sent: list[tuple[str, Submission]] = []
        self.rivals: list[JobRecord] = []  # submitted by another process just before
        self.resources: list[dict[str, float]] = [{"CPU": 8.0}]
        self.tails = 0
        self.stopped: list[str] = []
        self.killed: list[str] = []

    def timing(self, **limits: float) -> Timing:
        return Timing(self.clock, self.clock.sleep, **limits)

    def jobs(self) -> list[JobRecord]:
        return list(self.known)

    def job(self, job_id: str) -> JobRecord | None:
        answer = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(answer, Exception):
            raise answer
        return answer and replace(answer, id=job_id)

    def submit(self, submission: Submission, job_id: str) -> None:
        if self.rivals:
            self.known.append(self.rivals.pop())
            raise DuplicateJobError(job_id)
        self.sent.append((job_id, submission))

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def kill_pending(self, job_id: str) -> None:
        self.killed.append(job_id)

    def tail(self, job_id: str) -> Generator[str | None, None, None]:
        self.tails += 1
        script = self.connections.pop(0) if len(self.connections) > 1 else self.connections[0]
        for piece in script:
            if piece == DROP:
                raise UnreachableError("closed by the other side")
            if piece is SILENCE:
                self.clock.sleep(TICK)
            yield piece

    def log(self, job_id: str) -> str:
        return self.text

    def machines(self) -> list[dict[str, float]]:
        return self.resources


def job(
    status: str, *, job_id: str = "distill-1", message: str = "", code: int | None = None, **metadata: str
) -> JobRecord:
    return JobRecord(job_id, status, message, code, metadata)
