"""Search the best fine-tuning settings on GLUE by Ray Tune, for several tasks at the same time.

    python -m jobs.search_glue --recipe jobs/recipes/search_glue/grid.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.search_glue --recipe jobs/recipes/search_glue/random.yaml

Reads:  a model folder (or a run folder that holds one), a GLUE folder; of the tasks only train and dev.
Writes: trials.csv, search.svg, best.yaml (a recipe of jobs.evaluate_glue), scores.json, trials/ and manifest.json in
        run_dir; goes on after a kill.
"""

import sys

from distilray.stages import command

main = command("search_glue", __doc__)

if __name__ == "__main__":
    sys.exit(main())
