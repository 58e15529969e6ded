"""Searches fine-tuning settings on a small task made from the quickstart's sample: does sentence B follow sentence A?

    python -m jobs.run_glue_demo [JOB.a.b=value ...]

Reads: the two packages of the `sample` extra.
Writes: runs/glue-demo/{corpus,follows,search}; finished stages are skipped when it is run again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.config.base import RayConfig
from distilray.runtime.command_line import CommandParser, exit_code
from distilray.runtime.job import overrides_by_job
from distilray.runtime.session import ray_session
from distilray.stages import STAGES
from tuning.search import show_search

RECIPES = {"build_corpus": "quickstart", "build_follows": "demo", "search_glue": "demo"}
OWN_CORPUS = "build_corpus.run_dir=runs/glue-demo/corpus"  # of the quickstart's recipe; that of the quickstart stays


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns its exit code."""
    return exit_code("run_glue_demo", lambda: run_demo(argv))


def run_demo(argv: Sequence[str] | None) -> None:
    """One stage after the other in one Ray session, then the trials and the scores of the winner."""
    parser = CommandParser(prog="python -m jobs.run_glue_demo", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="JOB.a.b=value", help="changes to the recipe of a job")
    changes = overrides_by_job(list(RECIPES), [OWN_CORPUS, *parser.parse_args(argv).overrides])
    with ray_session(RayConfig()):
        for name, file in RECIPES.items():
            recipe = Path(__file__).parent / "recipes" / name / f"{file}.yaml"
            folder = STAGES[name].job().execute(str(recipe), changes[name])
    show_search(folder)


if __name__ == "__main__":
    sys.exit(main())
