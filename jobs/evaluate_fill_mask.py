"""Evaluate fill-mask on held-out text, teacher beside student: hit@k, MRR, pseudo-perplexity, size, latency.

    python -m jobs.evaluate_fill_mask --recipe jobs/recipes/evaluate_fill_mask/quickstart.yaml [--dry-run] [a.b=value]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_fill_mask --recipe jobs/recipes/evaluate_fill_mask/card.yaml

Reads:  the held-out shards of jobs.encode_corpus, two model folders (or run folders that hold one).
Writes: scores.json and manifest.json in run_dir; prints the table.
"""

import sys
from collections.abc import Sequence

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask import evaluate_fill_mask, fill_mask_inputs, plan_fill_mask, show_scores
from distilray.runtime.job import Job

JOB = Job(
    name="evaluate_fill_mask",
    config_class=EvaluateFillMaskConfig,
    inputs=fill_mask_inputs,
    plan=plan_fill_mask,
    run=evaluate_fill_mask,
    show=show_scores,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
