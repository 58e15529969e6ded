"""Ids of submissions: the same command has the same id, and further attempts have a number appended to it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.submission.cluster import DriverResources, JobRecord
from distilray.operations.submission.follow import stop_command

ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGITS = 12  # of the hash: two of a million commands collide with probability 0.2 per cent


@dataclass(frozen=True)
class Attempt:
    """The attempt of a command to attach to or to submit.

    Attributes:
        number: from 1.
        last: the newest attempt that the cluster knows, if any.
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
    """Returns the id of a command: the job and a hash of its configs, arguments, driver resources and variables."""
    identity = [
        job,
        *(config.model_dump(mode="json") for config in configs),
        list(arguments),
        driver.needs(),
        dict(variables),
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    base = f"{job}-{digest[:_DIGITS]}"
    assert ID.fullmatch(base), base
    return base


def next_attempt(base: str, known: Sequence[JobRecord]) -> Attempt:
    """Returns the active attempt of a command, or a new one.

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


def check_writers(base: str, run_dir: str, known: Sequence[JobRecord], *, address: str) -> None:
    """Refuses a second job for the run folder of one that has not ended.

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
    """The number of an attempt of the command, from 1; 0 for the id of another command."""
    if job_id == base:
        return 1
    front, _, number = job_id.rpartition("-")
    return int(number) if front == base and re.fullmatch(r"[2-9]|[1-9][0-9]{1,5}", number) else 0
