"""Distil a teacher into a student with half its layers, by the three losses of DistilBERT.

    python -m jobs.distill --recipe jobs/recipes/distill/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.distill --recipe jobs/recipes/distill/card.yaml

Reads:  a run folder of jobs.encode_corpus, a teacher (run folder of jobs.train_teacher, or a BERT folder).
Writes: model/ (transformers layout), initialization.json, metrics.jsonl, checkpoints/ and manifest.json in run_dir;
        goes on after a kill.
"""

import sys

from distilray.stages import command

main = command("distill", __doc__)

if __name__ == "__main__":
    sys.exit(main())
