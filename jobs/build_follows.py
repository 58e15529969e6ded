"""Build a small task in GLUE's layout from a corpus: does sentence B follow sentence A?

    python -m jobs.build_follows --recipe jobs/recipes/build_follows/demo.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.build_follows --recipe jobs/recipes/build_follows/demo.yaml

Reads:  a run folder of jobs.build_corpus.
Writes: glue/Follows/{train,dev,test}.tsv and manifest.json in run_dir; glue/ is a glue_dir with the task `follows`.
"""

import sys
from collections.abc import Sequence

from distilray.config.evaluation import BuildFollowsConfig
from distilray.evaluation.follows import build_follows, follows_inputs, plan_follows
from distilray.runtime.job import Job

JOB = Job(
    name="build_follows",
    config_class=BuildFollowsConfig,
    inputs=follows_inputs,
    plan=plan_follows,
    run=build_follows,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
