"""Plan the line on machines before anything is hired: hours, money, disk; its training on 1 to 64 workers, simulated.

    python -m jobs.plan --recipe jobs/recipes/plan/card.yaml [--dry-run] [a.b=value ...]
    python -m jobs.plan --recipe jobs/recipes/plan/card.yaml run_dir=runs/plan cluster.machine=g6e.48xlarge

Reads:  the recipes of the stations; with estimate.measured_run_dir a run folder of jobs.distill.
Writes: plan.json, plan.html and manifest.json in run_dir, again when the recipe or one of the stations'
        has changed; prints the tables and what they assume.
"""

import sys

from distilray.stages import command

main = command("plan", __doc__)

if __name__ == "__main__":
    sys.exit(main())
