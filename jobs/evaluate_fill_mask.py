"""Evaluate fill-mask, teacher beside student: hit@k, MRR, ranks, pseudo-perplexity with intervals, size, latency.

    python -m jobs.evaluate_fill_mask --recipe jobs/recipes/evaluate_fill_mask/quickstart.yaml [--dry-run] [a.b=value]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_fill_mask --recipe jobs/recipes/evaluate_fill_mask/card.yaml

Reads:  the held-out shards of jobs.encode_corpus, or files of texts with masks; one or two models (folders or runs).
Writes: scores.json, manifest.json and, for files, answers/ and quarantine.jsonl in run_dir; prints the table.
"""

import sys
from collections.abc import Sequence

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask import show_scores
from distilray.evaluation.fill_mask.evaluation import evaluate_fill_mask, plan_fill_mask
from distilray.evaluation.fill_mask.inputs import fill_mask_inputs, prepare_fill_mask
from distilray.runtime.job import Job

JOB = Job(
    name="evaluate_fill_mask",
    config_class=EvaluateFillMaskConfig,
    prepare=prepare_fill_mask,
    inputs=fill_mask_inputs,
    plan=plan_fill_mask,
    run=evaluate_fill_mask,
    about=__doc__,
    show=show_scores,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
