"""Write the training texts of GLUE tasks as plain text without labels: a source of jobs.build_corpus.

    python -m jobs.write_glue_text --recipe jobs/recipes/reproduction/write_glue_text.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.write_glue_text --recipe jobs/recipes/write_glue_text/card.yaml

Reads:  the train files of a GLUE folder.
Writes: text/TASK.txt (a text in a line, a blank line between documents) and manifest.json in run_dir.
"""

import sys
from collections.abc import Sequence

from distilray.config.evaluation import WriteGlueTextConfig
from distilray.evaluation.glue_text import glue_text_inputs, plan_glue_text, write_glue_text
from distilray.runtime.job import Job

JOB = Job(
    name="write_glue_text",
    config_class=WriteGlueTextConfig,
    inputs=glue_text_inputs,
    plan=plan_glue_text,
    run=write_glue_text,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
