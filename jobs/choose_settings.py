"""Choose the settings of jobs/pipelines/mine.yaml for a text, a model and a machine, and write a recipe per stage.

    python -m jobs.choose_settings --recipe jobs/recipes/choose_settings/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.choose_settings --recipe jobs/recipes/choose_settings/quickstart.yaml

Reads:  samples of the text files, and the model.
Writes: recipes/STAGE.yaml in run_dir, with a reason for each line.
"""

import sys

from distilray.stages import command

main = command("choose_settings", __doc__)

if __name__ == "__main__":
    sys.exit(main())
