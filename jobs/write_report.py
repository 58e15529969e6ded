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

from distilray.stages import command

main = command("write_report", __doc__)

if __name__ == "__main__":
    sys.exit(main())
