"""Train a teacher: continue masked-LM pretraining of an encoder, with its masked-LM head, on shards.

    python -m jobs.train_teacher --recipe jobs/recipes/train_teacher/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.train_teacher --recipe jobs/recipes/train_teacher/card.yaml

Reads:  a run folder of jobs.encode_corpus; a BERT folder (encoder with or without its masked-LM head).
Writes: model/ (transformers layout), metrics.jsonl, checkpoints/ and manifest.json in run_dir; an
        interrupted run resumes from the last checkpoint.
"""

import sys

from distilray.stages import command

main = command("train_teacher", __doc__)

if __name__ == "__main__":
    sys.exit(main())
