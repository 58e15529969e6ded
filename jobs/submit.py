"""Submit a job to a Ray cluster, follow its log even if the connection breaks, and return the exit code of the job.

    python -m jobs.submit [--secrets PATH] [--env NAME=VALUE] [--detach] [--dry-run] JOB --recipe FILE [a.b=value ...]
    python -m jobs.submit [...] run_pipeline FILE [--only STAGE,..] [--skip STAGE,..] [NAME=value | STAGE.key=value ...]
    python -m jobs.submit --stop ID

Reads:  the recipes and the code of this checkout, which are validated and uploaded (about 2 MB).
Writes: nothing locally; the job writes its run_dir, which all machines of the cluster must be able to access.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.errors import InputError
from distilray.operations.submit import command, request
from distilray.stages import STAGES
from jobs import job_names

ROOT = Path(__file__).parents[1]
LOCAL_ONLY = {
    "serve_fill_mask": "it is a service; deploy it with `serve deploy serve/config.yaml`",
    "plan": "it runs on this machine: python -m jobs.plan",
}


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(argv, description=(__doc__ or "").partition("\n")[0], root=ROOT, recipe_reader=recipe_reader)


def recipe_reader(name: str) -> request.RecipeReader:
    """Return the function that reads the recipes of a job. Raises `InputError` if the job cannot run on a cluster."""
    if name not in job_names():
        raise InputError(f"{name}: no such job; the jobs are {', '.join(job_names())}")
    if name == "run_pipeline":
        return request.pipeline_recipe_reader(ROOT / "jobs" / "recipes")
    if name in LOCAL_ONLY or name not in STAGES:
        fix = LOCAL_ONLY.get(name, f"it runs on this machine: python -m jobs.{name}")
        raise InputError(f"{name} cannot be submitted: {fix}")
    return request.job_recipe_reader(STAGES[name].config_class)


if __name__ == "__main__":
    sys.exit(main())
