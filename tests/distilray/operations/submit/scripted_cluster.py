"""A cluster without Ray: jobs whose status, log and faults are a script over a clock that only the client moves."""

from collections.abc import Generator, Iterable
from dataclasses import replace

from distilray.operations.submit.follow import Timing
from distilray.operations.submit.records import DuplicateJobError, JobRecord, Submission, UnreachableError

TICK = 5.0  # seconds that a silent stream takes to say so
DROP = "drop"  # in a script of a connection: it breaks there
SILENCE = None
GONE = UnreachableError("http://head:8265: no answer")


class ManualClock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ScriptedCluster:
    """Speaks the protocol of `Cluster`.

    Args:
        looks: what each question after the job is answered with, in turn; the last one stays. An error is raised.
        connections: what each connection to the log brings, in turn; the last one stays.
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
        self.rivals: list[JobRecord] = []  # submitted by somebody else just before us
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
