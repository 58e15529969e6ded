"""Distil a teacher into a student with half its layers, by the three losses of DistilBERT.

    python -m jobs.distill --recipe jobs/recipes/distill/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.distill --recipe jobs/recipes/distill/card.yaml

Reads:  a run folder of jobs.encode_corpus, a teacher (run folder of jobs.train_teacher, or a BERT folder).
Writes: model/ (transformers layout), initialisation.json, metrics.jsonl, checkpoints/ and manifest.json in run_dir;
        goes on after a kill.
"""

import sys
from collections.abc import Sequence

from distilray.config.distillation import DistillConfig
from distilray.distillation.planning.plan import plan_distillation
from distilray.distillation.trainer import distill, distill_inputs
from distilray.models.model_source import pinned
from distilray.runtime.job import Job

JOB = Job(
    name="distill",
    config_class=DistillConfig,
    prepare=lambda config: config.model_copy(update={"teacher_dir": pinned(config.teacher_dir)}),
    inputs=distill_inputs,
    plan=plan_distillation,
    run=distill,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
