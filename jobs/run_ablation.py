"""Distils the same student with all losses and with one thing less each time; prints the table beside the paper's.

    python -m jobs.run_ablation [--only VARIANT,VARIANT] [a.b=value ...]

Reads:  what the recipes in jobs/recipes/run_ablation name: the quickstart's shards and teacher.
Writes: a run folder of jobs.distill for each variant in runs/ablation/; finished ones are skipped.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distilray.config.base import RayConfig
from distilray.config.distillation import DistillConfig
from distilray.distillation.ablation import VARIANTS, ablation_table, last_scores, variants
from distilray.runtime.command_line import CommandParser, exit_code
from distilray.runtime.session import ray_session
from distilray.stages import STAGES

CONFIG = DistillConfig
RECIPES = str(Path(__file__).parent / "recipes" / "run_ablation" / "{}.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one variant after the other in one Ray session, then prints the table; returns the exit code."""
    return exit_code("run_ablation", lambda: run_set(argv))


def run_set(argv: Sequence[str] | None) -> None:
    parser = CommandParser(prog="python -m jobs.run_ablation", description=__doc__)
    parser.add_argument("--only", default=",".join(VARIANTS), metavar="VARIANT,...", help="these alone, of %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="changes to every recipe but its run_dir")
    given = parser.parse_intermixed_args(argv)
    names = variants(given.only)
    job = STAGES["distill"].job()
    with ray_session(RayConfig()):
        runs = {name: job.execute(RECIPES.format(name), given.overrides).uri for name in names}
    Console(width=None if os.isatty(1) else 110).print(ablation_table({n: last_scores(r) for n, r in runs.items()}))


if __name__ == "__main__":
    sys.exit(main())
