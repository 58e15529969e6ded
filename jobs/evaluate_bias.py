"""Measure social bias of models side by side: probes of the model card, CrowS-Pairs and StereoSet.

    python -m jobs.evaluate_bias --recipe jobs/recipes/evaluate_bias/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.evaluate_bias --recipe jobs/recipes/evaluate_bias/card.yaml

Reads:  models (run, model or ONNX folders), the first as reference; the official files of the two data sets, if set.
Writes: scores.json, crows_pairs.jsonl and stereoset.jsonl (scores of each row), manifest.json; prints the tables.
"""

import sys

from distilray.stages import command

main = command("evaluate_bias", __doc__)

if __name__ == "__main__":
    sys.exit(main())
