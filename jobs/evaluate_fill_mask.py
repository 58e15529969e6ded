"""Evaluate a student and its teacher on fill-mask: hit@k, MRR, ranks, pseudo-perplexity, size and latency.

    python -m jobs.evaluate_fill_mask --recipe jobs/recipes/evaluate_fill_mask/quickstart.yaml [--dry-run] [a.b=value]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_fill_mask --recipe jobs/recipes/evaluate_fill_mask/card.yaml

Reads:  the held-out shards of jobs.encode_corpus, or files of masked texts; one or two models (folders or runs).
Writes: scores.json, sentences.jsonl (answers to read), manifest.json and, for files, answers/ and quarantine.jsonl in
        run_dir; prints the table.
"""

import sys

from distilray.stages import command

main = command("evaluate_fill_mask", __doc__)

if __name__ == "__main__":
    sys.exit(main())
