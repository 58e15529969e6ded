"""Submissions, the cluster's records of jobs, and the attempts of a command."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.workers import worker_need

RESOURCES = "driver_resources"  # metadata key
PENDING, SUCCEEDED, STOPPED = "PENDING", "SUCCEEDED", "STOPPED"
_ENDED = frozenset({SUCCEEDED, STOPPED, "FAILED"})
ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGITS = 12  # of the hash; among a million commands, the probability of a collision is 0.2%
_WAITS = "the job waits until the autoscaler provides them; without an autoscaler it will not start"


class ClusterError(InputError):
    """The cluster cannot be used as requested. The message is one line with the fix."""


class UnreachableError(ClusterError):
    """No valid response, perhaps temporarily (a broken tunnel, a restarting dashboard)."""


class DuplicateJobError(Exception):
    """The cluster already has a job with this id."""


@dataclass(frozen=True)
class JobRecord:
    """A job of the cluster.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: Ray's explanation, which may contain the end of the log.
        driver_exit_code: exit code of the command, negative for a signal; None while it runs or if unknown to Ray.
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
        """Resources reserved for its driver, e.g. `1 GPU`; empty if there are none or Ray's own client submitted it."""
        return self.metadata.get(RESOURCES, "")

    def describe_status(self) -> str:
        """Return the status and, if the job is pending, the resources for which its driver waits."""
        is_waiting = self.status == PENDING and self.resources
        return f"{self.status} (its driver waits for {self.resources})" if is_waiting else self.status


@dataclass(frozen=True)
class DriverResources:
    """Resources reserved for the driver, which runs the command of the job. Without any, it runs on the head."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0

    def needs(self) -> dict[str, float]:
        """Return the nonzero amounts by Ray's names of the resources."""
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
    """An attempt to run a command: an active one to attach to, or a new one to submit.

    Attributes:
        number: number of the attempt, from 1.
        last: newest attempt on the cluster.
    """

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
    """Return the id of a command: the job name and a hash of everything that determines the job."""
    recipes = [config.model_dump(mode="json") for config in configs]
    identity = [job, *recipes, list(arguments), driver.needs(), dict(variables)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    base = f"{job}-{digest[:_DIGITS]}"
    assert ID.fullmatch(base), base
    return base


def next_attempt(base: str, records: Sequence[JobRecord]) -> Attempt:
    """Return the active attempt of a command or, if there is none, a new one.

    A successful attempt is also followed by a new one, because only the job can tell whether its run folder still
    exists. It skips a complete run within seconds.

    Args:
        base: id of the first attempt; -2, -3 and so on are appended for later ones.
        records: jobs of the cluster, in any order.
    """
    attempts = [(number, record) for record in records if (number := _number(base, record.id))]
    if not attempts:
        return Attempt(base, 1)
    number, last = max(attempts, key=lambda attempt: attempt[0])
    if not last.ended:
        return Attempt(last.id, number, last)
    return Attempt(f"{base}-{number + 1}", number + 1, last)  # Ray does not accept an id twice


def check_run_dir_free(base: str, run_dir: str, records: Sequence[JobRecord], *, address: str) -> None:
    """Check that no other active job uses the run folder.

    Raises:
        InputError: another job uses it. The message names that job and the command that stops it.
    """
    for record in records:
        run_dirs = [folder.rstrip("/") for folder in record.metadata.get("run_dir", "").split("\n")]  # one per stage
        if run_dir.rstrip("/") in run_dirs and not record.ended and not _number(base, record.id):
            raise InputError(
                f"run_dir={run_dir}: in use by job {record.id}, which is {record.describe_status()}; wait for it, stop "
                f"it with `{stop_command(address, record.id)}`, or choose another run_dir"
            )


def _number(base: str, job_id: str) -> int:
    """Return the attempt number in a job id, from 1; 0 if the id belongs to another command."""
    if job_id == base:
        return 1
    prefix, _, number = job_id.rpartition("-")
    return int(number) if prefix == base and re.fullmatch(r"[2-9]|[1-9][0-9]{1,5}", number) else 0


def stop_command(address: str, job_id: str) -> str:
    return f"python -m jobs.submit --address {address} --stop {job_id}"


def capacity_warnings(driver: DriverResources, config: JobConfig, machines: Sequence[Mapping[str, float]]) -> list[str]:
    """Return a warning for each resource of which the cluster does not have enough now; it may still grow.

    Args:
        driver: resources reserved for the driver, all on one machine.
        machines: resources of each machine.
    """
    lines = []
    needs = driver.needs()
    if needs and not any(all(machine.get(name, 0) >= need for name, need in needs.items()) for machine in machines):
        lines.append(f"no machine has {driver} for the driver now: {_WAITS}")
    workers = worker_need(config)
    if workers is None:
        return lines
    for name, per_worker in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        need, available = workers.min_workers * per_worker, sum(machine.get(name, 0) for machine in machines)
        if need > available:
            lines.append(f"the workers need {need:g} {name}, the cluster has {available:g} now: {_WAITS}")
    return lines


def one_line(text: object) -> str:
    """Shorten an error to its first and last lines; the last line of a traceback is the message."""
    lines = [line for line in str(text).splitlines() if re.search(r"\w", line)] or [type(text).__name__]
    shortened = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return " ".join(shortened.split())[:300]
