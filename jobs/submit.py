"""Submits a job to a Ray cluster, follows its log even if the connection breaks, and returns the job's exit code.

    python -m jobs.submit [--secrets PATH] [--env NAME=VALUE] [--detach] [--dry-run] JOB --recipe FILE [a.b=value ...]
    python -m jobs.submit [...] run_pipeline FILE [--only STAGE,..] [--skip STAGE,..] [NAME=value | STAGE.key=value ...]
    python -m jobs.submit --stop ID

Reads:  the recipes and the code of this checkout, which are checked here and uploaded (some 2 MB).
Writes: nothing here; the job writes its run_dir, which all machines of the cluster must see.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.errors import InputError
from distilray.operations.submit import command, request
from distilray.stages import STAGES
from jobs import job_names

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "serve_fill_mask": "a service is no job: `serve deploy serve/config.yaml` puts it on a cluster",
    "plan": "it computes what a run would take, on this machine: python -m jobs.plan",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return command.run(argv, description=(__doc__ or "").partition("\n")[0], root=ROOT, recipe_reader=recipe_reader)


def recipe_reader(name: str) -> request.RecipeReader:
    """Return what reads the recipes of a job that a cluster can run."""
    if name not in job_names():
        raise InputError(f"{name}: no such job; there are {', '.join(job_names())}")
    if name == "run_pipeline":
        return request.pipeline_recipe_reader(ROOT / "jobs" / "recipes")
    if name in ELSEWHERE or name not in STAGES:
        fix = ELSEWHERE.get(name, f"it is made for this machine: python -m jobs.{name}")
        raise InputError(f"{name} cannot be submitted: {fix}")
    return request.job_recipe_reader(STAGES[name].config_class)


if __name__ == "__main__":
    sys.exit(main())
