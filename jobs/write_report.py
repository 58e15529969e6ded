"""Write a report of runs as one HTML page, and the model card.

    python -m jobs.write_report --recipe jobs/recipes/write_report/quickstart.yaml [--dry-run] [a.b=value ...]
    python -m jobs.write_report --recipe jobs/recipes/write_report/quickstart.yaml \
        run_dir=runs/report 'run_paths=[runs/quickstart/student, runs/quickstart/bias]'
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.write_report --recipe jobs/recipes/write_report/card.yaml

Reads:  complete run folders of any jobs.
Writes: report.html (self-contained, without scripts), README.md (the model card) and manifest.json in run_dir, replaced
        if a run has changed. Prints comparisons with the paper and between students.
"""

import sys

from distilray.stages import command

main = command("write_report", __doc__)

if __name__ == "__main__":
    sys.exit(main())
