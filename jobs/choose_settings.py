"""Choose the settings of the pipeline for your own text: survey text, model and machine, and write a recipe per stage.

    python -m jobs.choose_settings --recipe FILE [--dry-run] [a.b=value ...]
    python -m jobs.run_pipeline jobs/pipelines/mine.yaml text=my-texts/ model=hub:OWNER/NAME

Reads:  samples of the text files, and the model.
Writes: recipes/STAGE.yaml in run_dir, each line with its reason.
"""

import sys

from distilray.stages import command

main = command("choose_settings", __doc__)

if __name__ == "__main__":
    sys.exit(main())
