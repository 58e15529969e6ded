"""Submissions and jobs as the cluster records them, and the id of the next attempt of a command."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.workers import worker_need

RESOURCES = "driver_resources"  # key of the metadata
PENDING, SUCCEEDED, STOPPED = "PENDING", "SUCCEEDED", "STOPPED"
_ENDED = frozenset({SUCCEEDED, STOPPED, "FAILED"})
ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGITS = 12  # of the hash: two of a million commands collide with probability 0.2 per cent
_WAITS = "the job waits while Ray requests them from the autoscaler; without an autoscaler it will not start"


class ClusterError(InputError):
    """The cluster cannot be used as asked; one line with the fix."""


class UnreachableError(ClusterError):
    """No valid answer. It may be temporary: a tunnel that was cut, a dashboard that restarts."""


class DuplicateJobError(Exception):
    """The cluster has a job with this id already."""


@dataclass(frozen=True)
class JobRecord:
    """A job of the cluster.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: Ray's explanation; may hold the end of the log.
        driver_exit_code: of the command, negative for a signal; None while it runs, and when Ray lost it.
    """

    id: str
    status: str
    message: str = ""
    driver_exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    @property
    def resources(self) -> str:
        """The resources reserved for its driver, e.g. `1 GPU`; empty if there are none or it was submitted by hand."""
        return self.metadata.get(RESOURCES, "")

    def describe_status(self) -> str:
        """Return the status, and for a pending job the resources that its driver waits for."""
        is_waiting = self.status == PENDING and self.resources
        return f"{self.status} (its driver waits for {self.resources})" if is_waiting else self.status


@dataclass(frozen=True)
class DriverResources:
    """Resources reserved for the driver, the process of the job's command. Without any, it runs on the head."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0

    def needs(self) -> dict[str, float]:
        """Return the amounts by Ray's name of the resource, without zeros."""
        needs = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in needs.items() if amount}

    def __str__(self) -> str:
        return " and ".join(
            f"{amount / 1e9:.1f} GB of memory" if name == "memory" else f"{amount:g} {name}"
            for name, amount in self.needs().items()
        )


@dataclass(frozen=True)
class Submission:
    """A job to submit.

    Attributes:
        working_dir: the folder whose files are uploaded, except `excludes` (patterns of .gitignore).
    """

    entrypoint: str
    working_dir: str
    excludes: tuple[str, ...]
    env_vars: Mapping[str, str]
    metadata: Mapping[str, str]
    driver: DriverResources = DriverResources()


@dataclass(frozen=True)
class Attempt:
    """The attempt of a command to attach to or to submit: its number from 1, and the newest known one before it."""

    id: str
    number: int
    last: JobRecord | None = None


def submission_id(
    job: str,
    configs: Sequence[JobConfig],
    arguments: Sequence[str],
    *,
    driver: DriverResources,
    variables: Mapping[str, str],
) -> str:
    """Return the id of a command: the job and a hash of its configs, arguments, driver resources and variables."""
    recipes = [config.model_dump(mode="json") for config in configs]
    identity = [job, *recipes, list(arguments), driver.needs(), dict(variables)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    base = f"{job}-{digest[:_DIGITS]}"
    assert ID.fullmatch(base), base
    return base


def next_attempt(base: str, known: Sequence[JobRecord]) -> Attempt:
    """Return the active attempt of a command, or a new one.

    A new attempt follows a success too: only the job itself can see whether its run folder still exists, and it skips a
    complete run within seconds.

    Args:
        base: the id of the first attempt; the others have -2, -3, ... appended.
        known: jobs of the cluster, in any order.
    """
    attempts = [(number, record) for record in known if (number := _number(base, record.id))]
    if not attempts:
        return Attempt(base, 1)
    number, last = max(attempts, key=lambda attempt: attempt[0])
    if not last.ended:
        return Attempt(last.id, number, last)
    return Attempt(f"{base}-{number + 1}", number + 1, last)  # Ray refuses an id that was used


def check_run_dir_free(base: str, run_dir: str, known: Sequence[JobRecord], *, address: str) -> None:
    """Refuse a second job for the run folder of one that has not ended.

    Raises:
        InputError: names the other job, the resources that it waits for, and the command that stops it.
    """
    for record in known:
        others = [each.rstrip("/") for each in record.metadata.get("run_dir", "").split("\n")]  # a pipeline has several
        if run_dir.rstrip("/") in others and not record.ended and not _number(base, record.id):
            raise InputError(
                f"run_dir={run_dir}: in use by job {record.id}, which is {record.describe_status()}; wait for it, stop "
                f"it with `{stop_command(address, record.id)}`, or choose another run_dir"
            )


def _number(base: str, job_id: str) -> int:
    """Return the number of an attempt of the command, from 1; 0 for the id of another command."""
    if job_id == base:
        return 1
    front, _, number = job_id.rpartition("-")
    return int(number) if front == base and re.fullmatch(r"[2-9]|[1-9][0-9]{1,5}", number) else 0


def stop_command(address: str, job_id: str) -> str:
    return f"python -m jobs.submit --address {address} --stop {job_id}"


def capacity_warnings(driver: DriverResources, config: JobConfig, machines: Sequence[Mapping[str, float]]) -> list[str]:
    """Return a line for each resource that the current machines lack. A hint only: the cluster may grow.

    Args:
        driver: reserved for the driver, all of it on one machine.
        machines: the resources of each.
    """
    lines = []
    needs = driver.needs()
    if needs and not any(all(machine.get(name, 0) >= need for name, need in needs.items()) for machine in machines):
        lines.append(f"no machine has {driver} for the driver now: {_WAITS}")
    workers = worker_need(config)
    if workers is None:
        return lines
    for name, each in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        need, available = workers.min_workers * each, sum(machine.get(name, 0) for machine in machines)
        if need > available:
            lines.append(f"the workers need {need:g} {name}, the cluster has {available:g} now: {_WAITS}")
    return lines


def one_line(text: object) -> str:
    """Shorten the text of an error to its first and last line; the last line of a traceback is the error itself."""
    lines = [line for line in str(text).splitlines() if re.search(r"\w", line)] or [type(text).__name__]
    shortened = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return " ".join(shortened.split())[:300]
