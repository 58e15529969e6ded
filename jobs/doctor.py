"""Check this machine, the cluster, the token and a recipe before a job runs; a line for each, with the fix.

    python -m jobs.doctor [--job JOB --recipe FILE [a.b=value ...]] [--storage URI] [--address URL] [--json]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.doctor --job distill --recipe jobs/recipes/distill/card.yaml

Reads:  this machine, a cluster that runs, a recipe and what it names; starts nothing.
Writes: a probe file in run_dir, or in --storage, removed again.
"""

from collections.abc import Sequence

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.doctor.command import diagnose, leave
from distilray.runtime.command_line import exit_code
from jobs import find_job, job_names
from serve.local.haproxy import find_orphans


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the checks; returns the exit code: 0 nothing fails, 1 something does, 2 bad arguments."""
    codes: list[int] = []
    fault = exit_code("doctor", lambda: codes.append(diagnose(argv, config_class_of, find_orphans)))
    return fault or codes[0]


def config_class_of(job: str) -> type[JobConfig]:
    """What the recipe of a job may say."""
    found = find_job(job)
    if found is None:
        names = [name for name in job_names() if find_job(name) is not None]
        raise InputError(f"--job {job}: no job with a run folder; there are {', '.join(names)}")
    config_class: type[JobConfig] = found.config_class
    return config_class


if __name__ == "__main__":
    leave(main())
