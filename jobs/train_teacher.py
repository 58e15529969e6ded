"""Train a teacher: a warm-start encoder and its vocabulary head on the masked shards.

    python -m jobs.train_teacher --recipe jobs/recipes/train_teacher/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.train_teacher --recipe jobs/recipes/train_teacher/card.yaml

Reads:  a run folder of jobs.encode_corpus, a BERT folder (encoder alone, or with its masked LM head).
Writes: model/ (transformers layout), metrics.jsonl, checkpoints/ and manifest.json in run_dir; goes on after a kill.
"""

import sys

from distilray.stages import command

main = command("train_teacher", __doc__)

if __name__ == "__main__":
    sys.exit(main())
