"""Measure the efficiency of models on this CPU: parameters, bytes, latency of one text, texts per second.

    python -m jobs.measure_efficiency --recipe jobs/recipes/measure_efficiency/quickstart.yaml [--dry-run] [a.b=value]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.measure_efficiency --recipe jobs/recipes/measure_efficiency/card.yaml

Reads:  model or run folders, or folders of jobs.export_model; the STS-B dev set of a GLUE folder, or a text file.
Writes: efficiency.json and manifest.json in run_dir; prints the table.
"""

import sys

from distilray.stages import command

main = command("measure_efficiency", __doc__)

if __name__ == "__main__":
    sys.exit(main())
