"""Search for the best fine-tuning settings on GLUE with Ray Tune, for several tasks at the same time.

    python -m jobs.search_glue --recipe jobs/recipes/search_glue/grid.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.search_glue --recipe jobs/recipes/search_glue/random.yaml

Reads:  a model or run folder; the train and dev sets of a GLUE folder.
Writes: trials.csv, search.svg, best.yaml (a recipe of jobs.evaluate_glue), scores.json, trials/ and manifest.json in
        run_dir; an interrupted search resumes.
"""

import sys

from distilray.stages import command

main = command("search_glue", __doc__)

if __name__ == "__main__":
    sys.exit(main())
