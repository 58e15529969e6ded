"""Ask models what they say of groups of people: the card's probes, CrowS-Pairs, StereoSet, side by side.

    python -m jobs.evaluate_bias --recipe jobs/recipes/evaluate_bias/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_bias --recipe jobs/recipes/evaluate_bias/card.yaml

Reads:  models (run, model or ONNX folders), the first as reference; the official files of the two sets, if given.
Writes: scores.json, crows_pairs.jsonl and stereoset.jsonl (what each row came to), manifest.json; prints the tables.
"""

import sys
from collections.abc import Sequence

from distilray.config.bias import EvaluateBiasConfig
from distilray.evaluation.bias.scores import bias_inputs, evaluate_bias, plan_bias, prepare_bias, show_bias
from distilray.runtime.job import Job

JOB = Job(
    name="evaluate_bias",
    config_class=EvaluateBiasConfig,
    prepare=prepare_bias,
    inputs=bias_inputs,
    plan=plan_bias,
    run=evaluate_bias,
    about=__doc__,
    show=show_bias,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
