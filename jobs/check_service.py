"""Check the service end to end: serve a model on this machine, send HTTP requests and record the answers.

    python -m jobs.check_service --recipe jobs/recipes/check_service/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.check_service --recipe jobs/recipes/check_service/quickstart.yaml

Reads:  a model folder, or the run folder of a training job.
Writes: answers.json and manifest.json in run_dir; prints the answers.
"""

import sys

from distilray.stages import command

main = command("check_service", __doc__)

if __name__ == "__main__":
    sys.exit(main())
