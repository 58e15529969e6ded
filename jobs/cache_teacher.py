"""Cache a teacher: store its hidden states and most probable tokens for every example, for use by jobs.distill.

    python -m jobs.cache_teacher --recipe jobs/recipes/cache_teacher/card.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.cache_teacher --recipe jobs/recipes/cache_teacher/card.yaml

Reads:  a run folder of jobs.encode_corpus with static masks; a teacher (run or model folder).
Writes: teacher/*.arrow (schema TEACHER_TARGETS), one file per shard, and manifest.json in run_dir.
"""

import sys

from distilray.stages import command

main = command("cache_teacher", __doc__)

if __name__ == "__main__":
    sys.exit(main())
