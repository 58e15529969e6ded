"""What a submission needs of a cluster, without Ray: jobs by their id, the log as a stream, the machines."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from distilray.errors import InputError

PENDING, SUCCEEDED, STOPPED = "PENDING", "SUCCEEDED", "STOPPED"
ENDED = frozenset({SUCCEEDED, STOPPED, "FAILED"})


class ClusterError(InputError):
    """The cluster cannot be used as asked; one line with the fix."""


class UnreachableError(ClusterError):
    """No answer, or none that makes sense. It may pass: a tunnel that was cut, a dashboard that starts anew."""


class KnownJobError(Exception):
    """The cluster has a job of this id already: somebody else was faster."""


@dataclass(frozen=True)
class JobRecord:
    """A job as the cluster knows it.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: what Ray says of it; may hold the end of its log.
        driver_exit_code: of the command, negative when a signal ended it; None while it runs, and when Ray lost it.
    """

    id: str
    status: str
    message: str = ""
    driver_exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the status is the last one."""
        return self.status in ENDED


@dataclass(frozen=True)
class DriverResources:
    """What is reserved for the command itself. With none of it, it runs on the head."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0

    def needs(self) -> dict[str, float]:
        """By Ray's name of the resource, without zeros."""
        needs = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in needs.items() if amount}


@dataclass(frozen=True)
class Submission:
    """What is sent to a cluster.

    Attributes:
        working_dir: the folder whose files are uploaded.
        excludes: what of it is not, as patterns of .gitignore.
    """

    entrypoint: str
    working_dir: str
    excludes: tuple[str, ...]
    env_vars: Mapping[str, str]
    metadata: Mapping[str, str]
    driver: DriverResources = DriverResources()


class Cluster(Protocol):
    """The jobs API of a cluster. Every method may raise `ClusterError`."""

    @property
    def address(self) -> str:
        """The URL of the API."""
        ...

    def jobs(self) -> list[JobRecord]:
        """All jobs that were ever submitted."""
        ...

    def job(self, job_id: str) -> JobRecord | None:
        """One of them."""
        ...

    def submit(self, submission: Submission, job_id: str) -> None:
        """Uploads the files and starts the job.

        Raises:
            KnownJobError: the id is in use.
        """
        ...

    def tail(self, job_id: str) -> Generator[str | None, None, None]:
        """The log from its beginning in pieces of any length, as it grows; None every few seconds without any.

        Ends when the server ends it, which does not mean that the job has ended.

        Raises:
            UnreachableError: the stream broke.
        """
        ...

    def log(self, job_id: str) -> str:
        """The log as it is now."""
        ...

    def machines(self) -> list[dict[str, float]]:
        """Resources of every machine, by Ray's names."""
        ...
