"""Fine-tune a model on GLUE with several seeds per task, and compare it with the model card and the paper.

    python -m jobs.evaluate_glue --recipe jobs/recipes/evaluate_glue/quickstart.yaml [--dry-run] [a.b=value ...]
    python -m jobs.evaluate_glue --validate submission.zip
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_glue --recipe jobs/recipes/evaluate_glue/card.yaml

Reads:  a model or run folder; the GLUE files, official TSV or the Parquet files of the hub.
Writes: scores.json, models/TASK (the best seed), submission.zip if enabled, manifest.json; prints the table.
"""

import sys

from distilray.stages import command

main = command("evaluate_glue", __doc__)

if __name__ == "__main__":
    sys.exit(main())
