"""Search the best fine-tuning settings on GLUE by Ray Tune, for several tasks at the same time.

    python -m jobs.search_glue --recipe jobs/recipes/search_glue/grid.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.search_glue --recipe jobs/recipes/search_glue/random.yaml

Reads:  a model folder (or a run folder that holds one), a GLUE folder; of the tasks only train and dev.
Writes: trials.csv, search.svg, best.yaml (a recipe of jobs.evaluate_glue), scores.json, trials/ and manifest.json in
        run_dir; goes on after a kill.
"""

import sys
from collections.abc import Sequence

from distilray.config.glue import SearchGlueConfig
from distilray.evaluation.glue_scores import glue_inputs
from distilray.models.model_source import pinned
from distilray.runtime.job import Job
from tuning.plan import plan_search
from tuning.search import search_glue, show_search

JOB = Job(
    name="search_glue",
    config_class=SearchGlueConfig,
    prepare=lambda config: config.model_copy(update={"model_dir": pinned(config.model_dir)}),
    inputs=glue_inputs,
    plan=plan_search,
    run=search_glue,
    about=__doc__,
    show=show_search,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
