"""Train a teacher: a warm-start encoder and its vocabulary head on the masked shards.

    python -m jobs.train_teacher --recipe jobs/recipes/train_teacher/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.train_teacher --recipe jobs/recipes/train_teacher/card.yaml

Reads:  a run folder of jobs.encode_corpus, a BERT folder (encoder alone, or with its masked LM head).
Writes: model/ (transformers layout), metrics.jsonl, checkpoints/ and manifest.json in run_dir; goes on after a kill.
"""

import sys
from collections.abc import Sequence

from distilray.config.distillation import TrainTeacherConfig
from distilray.distillation.planning.plan import plan_teacher
from distilray.distillation.trainer import teacher_inputs, train_teacher
from distilray.models.model_source import pinned
from distilray.runtime.job import Job

JOB = Job(
    name="train_teacher",
    config_class=TrainTeacherConfig,
    prepare=lambda config: config.model_copy(update={"encoder_dir": pinned(config.encoder_dir)}),
    inputs=teacher_inputs,
    plan=plan_teacher,
    run=train_teacher,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
