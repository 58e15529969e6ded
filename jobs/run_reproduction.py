"""Re-derives the claim of DistilBERT on real data: corpus, teacher, student, GLUE of both, what each loss is worth.

    python -m jobs.run_reproduction [--glue FOLDER] [--only STAGE,...] [--skip STAGE,...] [STAGE_OR_JOB.a.b=value ...]

Reads: the two packages of the `sample` extra; CoLA, SST-2 and RTE as the official files in FOLDER (data/glue).
Writes: a run folder for each stage in runs/reproduction/; what is finished is skipped the next time.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from distilray.config.base import RayConfig
from distilray.evaluation.reproduction import STAGES, chosen
from distilray.runtime.job import CommandParser, exit_code, overrides_by_job
from distilray.runtime.session import ray_session

RECIPES = str(Path(__file__).parent / "recipes" / "reproduction" / "{}.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stages that are not complete, and prints what the last one found; returns the exit code."""
    return exit_code("run_reproduction", lambda: run_stages(argv))


def run_stages(argv: Sequence[str] | None) -> None:
    parser = CommandParser(prog="python -m jobs.run_reproduction", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--glue", default="data/glue", help="folder with CoLA/, SST-2/, RTE/ (%(default)s)")
    parser.add_argument("--only", metavar="STAGE,...", help="these alone, or patterns of them: 'search_glue-*'")
    parser.add_argument("--skip", metavar="STAGE,...", help="all but these; --only x lists all")
    parser.add_argument("overrides", nargs="*", metavar="STAGE.a.b=value", help="changes to the recipe of a stage")
    given = parser.parse_intermixed_args(argv)
    changes = overrides_by_job([stage.name for stage in STAGES], given.overrides)
    with ray_session(RayConfig()):
        for stage in chosen(given.only, given.skip):
            job = import_module(f"jobs.{stage.job}").JOB
            recipe = stage.recipe or RECIPES.format(stage.job)
            folder = job.execute(recipe, [*stage.overrides(given.glue), *changes[stage.name]])
    if job.show is not None:
        job.show(folder)


if __name__ == "__main__":
    sys.exit(main())
