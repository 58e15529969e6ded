"""Cache a teacher: its hidden states and most probable tokens for every example, read by jobs.distill in its place.

    python -m jobs.cache_teacher --recipe jobs/recipes/cache_teacher/card.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.cache_teacher --recipe jobs/recipes/cache_teacher/card.yaml

Reads:  a run folder of jobs.encode_corpus with masks that are drawn once, a teacher (run or model folder).
Writes: teacher/*.arrow (schema TEACHER_TARGETS), one file for each shard, and manifest.json in run_dir.
"""

import sys
from collections.abc import Sequence

from distilray.config.distillation import CacheTeacherConfig
from distilray.distillation.teacher_cache.pipeline import cache_inputs, cache_teacher, plan_cache
from distilray.models.model_source import pinned
from distilray.runtime.job import Job

JOB = Job(
    name="cache_teacher",
    config_class=CacheTeacherConfig,
    prepare=lambda config: config.model_copy(update={"teacher_dir": pinned(config.teacher_dir)}),
    inputs=cache_inputs,
    plan=plan_cache,
    run=cache_teacher,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
