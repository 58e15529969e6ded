"""The ids of a submission: the same command has the same id, and a further attempt a number behind it."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.submission.cluster import SUCCEEDED, JobRecord

ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGITS = 12  # of the hash: two of a million commands collide with probability 0.2 per cent


class Step(Enum):
    """What to do with a command that may have been given before."""

    SUBMIT = "submit"
    ATTACH = "attach"
    DONE = "done"


@dataclass(frozen=True)
class Decision:
    """The attempt that a command is about.

    Attributes:
        number: from 1.
        last: the attempt that the cluster knows already, if any.
    """

    step: Step
    id: str
    number: int
    last: JobRecord | None = None


def submission_id(job: str, config: JobConfig, arguments: Sequence[str]) -> str:
    """The id of a command: the job and a hash of all that its config says, run folder included, and its arguments."""
    said = json.dumps([job, config.model_dump(mode="json"), list(arguments)], sort_keys=True)
    made = f"{job}-{hashlib.sha256(said.encode()).hexdigest()[:_DIGITS]}"
    assert ID.fullmatch(made), made
    return made


def decide(base: str, known: Sequence[JobRecord], *, again: bool = False) -> Decision:
    """What to do about a command, by the last of its attempts.

    Args:
        base: the id of the command, which is that of its first attempt; the others have -2, -3, ... behind it.
        known: jobs of the cluster, in any order.
        again: a new attempt also after one that succeeded.
    """
    attempts = [(number, record) for record in known if (number := _number(base, record.id))]
    if not attempts:
        return Decision(Step.SUBMIT, base, 1)
    number, last = max(attempts, key=lambda attempt: attempt[0])
    if not last.ended:
        return Decision(Step.ATTACH, last.id, number, last)
    if last.status == SUCCEEDED and not again:
        return Decision(Step.DONE, last.id, number, last)
    return Decision(Step.SUBMIT, f"{base}-{number + 1}", number + 1, last)  # Ray refuses an id that was used


def check_writers(base: str, run_dir: str, known: Sequence[JobRecord]) -> None:
    """Refuses a second job that would write the run folder of one that has not ended.

    Raises:
        InputError: with the id of the other job.
    """
    for record in known:
        if not record.ended and record.metadata.get("run_dir") == run_dir and not _number(base, record.id):
            raise InputError(
                f"run_dir={run_dir}: job {record.id} is {record.status} and writes there; wait for it, "
                "stop it, or choose another run_dir"
            )


def _number(base: str, job_id: str) -> int:
    """Which attempt of the command an id is; 0 for that of another command."""
    if job_id == base:
        return 1
    front, _, number = job_id.rpartition("-")
    return int(number) if front == base and re.fullmatch(r"[2-9]|[1-9][0-9]{1,5}", number) else 0
