"""Run a pipeline: a YAML file with stages, their recipes, and variables. What is complete and unchanged is skipped.

    python -m jobs.run_pipeline FILE [--only STAGE,..] [--skip STAGE,..] [--dry-run] [NAME=value | STAGE.key=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.run_pipeline jobs/pipelines/quickstart.yaml folder=/mnt/shared/quickstart

Reads:  the pipeline (`distilray.config.pipeline` describes its form), its recipes, and what these name.
Writes: the run folder of each stage. One of a stage whose config or inputs have changed is renamed, NAME.1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.pipeline import run_pipeline_command
from distilray.runtime.command_line import run_cli

RECIPES = Path(__file__).parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_cli("run_pipeline", lambda: run_pipeline_command(argv, __doc__, recipes=RECIPES))


if __name__ == "__main__":
    sys.exit(main())
