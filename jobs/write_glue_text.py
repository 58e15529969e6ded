"""Write the training texts of GLUE tasks as plain text without labels, for use as a source of jobs.build_corpus.

    python -m jobs.write_glue_text --recipe jobs/recipes/reproduction/write_glue_text.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.write_glue_text --recipe jobs/recipes/write_glue_text/card.yaml

Reads:  the train files of a GLUE folder.
Writes: text/TASK.txt (one text per line, a blank line between documents) and manifest.json in run_dir.
"""

import sys

from distilray.stages import command

main = command("write_glue_text", __doc__)

if __name__ == "__main__":
    sys.exit(main())
