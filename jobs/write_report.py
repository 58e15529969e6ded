"""Write the report of a line as one HTML page, and the model card, from any subset of its run folders.

    python -m jobs.write_report --recipe jobs/recipes/write_report/quickstart.yaml [--dry-run] [a.b=value ...]
    python -m jobs.write_report --recipe jobs/recipes/write_report/quickstart.yaml \
        run_dir=runs/report 'run_paths=[runs/quickstart/student, runs/quickstart/bias]'
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.write_report --recipe jobs/recipes/write_report/card.yaml

Reads:  complete run folders of any jobs of the line.
Writes: report.html (needs no network and no script), README.md (the model card) and manifest.json in run_dir; both are
        written again when a run has changed. Prints the claim and the students beside each other.
"""

import sys
from collections.abc import Sequence

from distilray.config.report import ReportConfig
from distilray.report.page import plan_report, report_inputs, show_report, write_report
from distilray.report.view import ViewJob

JOB = ViewJob(
    name="write_report",
    config_class=ReportConfig,
    inputs=report_inputs,
    plan=plan_report,
    run=write_report,
    about=__doc__,
    show=show_report,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
