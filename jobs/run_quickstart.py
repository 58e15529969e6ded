"""Runs the whole line on a small real input: Wikipedia sample -> teacher -> student -> answers over HTTP, a report.

    python -m jobs.run_quickstart [JOB.a.b=value ...]

Reads: the two packages of the `sample` extra.
Writes: runs/quickstart/{corpus,shards,teacher,student,fill_mask,report}; what is finished is skipped the next time.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.config.base import RayConfig
from distilray.evaluation.fill_mask import show_scores
from distilray.runtime.command_line import CommandParser, exit_code
from distilray.runtime.job import overrides_by_job
from distilray.runtime.session import ray_session
from distilray.stages import STAGES
from serve.local.trial import try_service

NAMES = ("build_corpus", "encode_corpus", "train_teacher", "distill", "evaluate_fill_mask", "write_report")
RECIPES = str(Path(__file__).parent / "recipes" / "{}" / "quickstart.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the line; returns its exit code."""
    return exit_code("run_quickstart", lambda: run_line(argv))


def run_line(argv: Sequence[str] | None) -> None:
    """One stage after the other in one Ray session, then the table and the answers."""
    parser = CommandParser(prog="python -m jobs.run_quickstart", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="JOB.a.b=value", help="changes to the recipe of a job")
    changes = overrides_by_job(NAMES, parser.parse_args(argv).overrides)
    with ray_session(RayConfig()):
        folders = {name: STAGES[name].job().execute(RECIPES.format(name), changes[name]) for name in NAMES}
        answers = try_service(folders["distill"].path("model"))
    show_scores(folders["evaluate_fill_mask"])
    print("\n".join(answers), flush=True)


if __name__ == "__main__":
    sys.exit(main())
