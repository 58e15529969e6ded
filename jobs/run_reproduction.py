"""Re-derives the claim of DistilBERT on real data: corpus, teacher, student, GLUE of both, what each loss is worth.

    python -m jobs.run_reproduction [--scale base] [--glue FOLDER] [--only STAGE,..] [--skip STAGE,..] [STAGE.a.b=value]

Reads: the two packages of the `sample` extra; CoLA, SST-2 and RTE as the official files in FOLDER (data/glue).
Writes: a run folder for each stage in runs/reproduction/; what is finished is skipped the next time.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.config.base import RayConfig
from distilray.evaluation.reproduction import SCALES, chosen, command_parser, stages_of
from distilray.runtime.command_line import exit_code
from distilray.runtime.job import overrides_by_job
from distilray.runtime.session import ray_session
from distilray.stages import STAGES

RECIPES = Path(__file__).parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the stages that are not complete, and prints what the last one found; returns the exit code."""
    return exit_code("run_reproduction", lambda: run_stages(argv))


def run_stages(argv: Sequence[str] | None) -> None:
    given = command_parser().parse_intermixed_args(argv)
    stages = stages_of(scale := SCALES[given.scale])
    changes = overrides_by_job([stage.name for stage in stages], given.overrides)
    wanted = chosen(stages, given.only, given.skip)
    with ray_session(RayConfig()):
        for stage in wanted:
            job = STAGES[stage.job].job()
            recipe = stage.recipe or str(RECIPES / scale.recipes / f"{stage.job}.yaml")
            folder = job.execute(recipe, [*stage.overrides(given.glue), *changes[stage.name]])
    if job.show is not None:
        job.show(folder)


if __name__ == "__main__":
    sys.exit(main())
