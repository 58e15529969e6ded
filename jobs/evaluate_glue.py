"""Fine-tune a model on GLUE and score it: every task with several seeds, beside the model card and the paper.

    python -m jobs.evaluate_glue --recipe jobs/recipes/evaluate_glue/quickstart.yaml [--dry-run] [a.b=value ...]
    python -m jobs.evaluate_glue --validate submission.zip
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_glue --recipe jobs/recipes/evaluate_glue/card.yaml

Reads:  a model or run folder; the GLUE files, official TSV or the hub's Parquet.
Writes: scores.json, models/TASK (the best seed), submission.zip if asked for, manifest.json; prints the table.
"""

import sys
from collections.abc import Sequence

from distilray.config.glue import EvaluateGlueConfig
from distilray.evaluation.glue_scores import (
    check_submission,
    evaluate_glue,
    evaluate_glue_inputs,
    plan_glue,
    show_glue_scores,
)
from distilray.models.model_source import pinned
from distilray.runtime.job import Job

JOB = Job(
    name="evaluate_glue",
    config_class=EvaluateGlueConfig,
    prepare=lambda config: config.model_copy(update={"model_dir": pinned(config.model_dir)}),
    inputs=evaluate_glue_inputs,
    plan=plan_glue,
    run=evaluate_glue,
    about=__doc__,
    show=show_glue_scores,
    validate=check_submission,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job, or checks a submission; returns the exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
