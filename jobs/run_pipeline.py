"""Run a pipeline: a YAML file with stages, their recipes, and variables. Complete, unchanged stages are skipped.

    python -m jobs.run_pipeline FILE [--only STAGE,..] [--skip STAGE,..] [--dry-run] [NAME=value | STAGE.key=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.run_pipeline jobs/pipelines/quickstart.yaml folder=/mnt/shared/quickstart

Reads:  the pipeline (`distilray.config.pipeline` describes the format), its recipes and their inputs.
Writes: the run folder of each stage. If config or inputs of a stage have changed, its old folder is renamed to NAME.1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilray.pipeline import run_pipeline_command
from distilray.runtime.command_line import run_cli

RECIPES = Path(__file__).parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    return run_cli("run_pipeline", lambda: run_pipeline_command(argv, __doc__, recipes=RECIPES))


if __name__ == "__main__":
    sys.exit(main())
