"""Measure what models cost on this CPU, in turn: parameters, bytes, latency of one text, texts per second.

    python -m jobs.measure_efficiency --recipe jobs/recipes/measure_efficiency/quickstart.yaml [--dry-run] [a.b=value]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.measure_efficiency --recipe jobs/recipes/measure_efficiency/card.yaml

Reads:  model or run folders, folders of jobs.export_model; the STS-B dev set of a GLUE folder, or the lines of a text.
Writes: efficiency.json and manifest.json in run_dir; prints the table.
"""

import sys
from collections.abc import Sequence

from distilray.config.export.efficiency import MeasureEfficiencyConfig
from distilray.evaluation.efficiency import efficiency_inputs, measure_efficiency, plan_efficiency, show_efficiency
from distilray.runtime.job import Job

JOB = Job(
    name="measure_efficiency",
    config_class=MeasureEfficiencyConfig,
    inputs=efficiency_inputs,
    plan=plan_efficiency,
    run=measure_efficiency,
    about=__doc__,
    show=show_efficiency,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
