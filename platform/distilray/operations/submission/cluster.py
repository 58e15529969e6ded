"""Interface of the cluster that jobs are submitted to, without Ray: jobs by id, log streams, machines."""

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from distilray.errors import InputError

RESOURCES = "driver_resources"  # key of the metadata
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
        """Return whether the status is final."""
        return self.status in ENDED

    @property
    def resources(self) -> str:
        """The resources reserved for its driver, e.g. `1 GPU`; empty if there are none or it was submitted by hand."""
        return self.metadata.get(RESOURCES, "")

    def describe_status(self) -> str:
        """Returns the status, and for a pending job the resources that its driver waits for."""
        is_waiting = self.status == PENDING and self.resources
        return f"{self.status} (its driver waits for {self.resources})" if is_waiting else self.status


def one_line(text: object) -> str:
    """Shortens the text of an error to its first and last line; the last line of a traceback is the error itself."""
    lines = [line for line in str(text).splitlines() if re.search(r"\w", line)] or [type(text).__name__]
    shortened = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return " ".join(shortened.split())[:300]


def format_amount(resource: str, amount: float) -> str:
    """Formats an amount of a Ray resource, e.g. `2 GPU`."""
    return f"{amount / 1e9:.1f} GB of memory" if resource == "memory" else f"{amount:g} {resource}"


@dataclass(frozen=True)
class DriverResources:
    """Resources reserved for the driver, the process of the job's command. Without any, it runs on the head."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0

    def needs(self) -> dict[str, float]:
        """By Ray's name of the resource, without zeros."""
        needs = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in needs.items() if amount}

    def __str__(self) -> str:
        return " and ".join(format_amount(name, need) for name, need in self.needs().items())


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

    def stop(self, job_id: str) -> None:
        """Asks a job to stop; one that is pending does so when it starts."""
        ...

    def kill_pending(self, job_id: str) -> None:
        """Ends a job whose driver has not started."""
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
