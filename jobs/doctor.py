"""Check the machine, the cluster, the token and a recipe before a job runs, and suggest fixes.

    python -m jobs.doctor [--job JOB --recipe FILE [a.b=value ...]] [--storage URI] [--address URL] [--json]
    python -m jobs.doctor --cluster cluster.yaml
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.doctor --job distill --recipe jobs/recipes/distill/card.yaml

Reads:  this machine, a running cluster, a recipe and its inputs, a cluster file; starts nothing.
Writes: a temporary probe file in run_dir or in --storage.
"""

from __future__ import annotations

from collections.abc import Sequence

try:
    import distilray  # noqa: F401
except ModuleNotFoundError:
    raise SystemExit("fail  PYTHONPATH      no package distilray  -> export PYTHONPATH=platform") from None
from distilray.operations.doctor.command import diagnose, exit_process
from distilray.runtime.command_line import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code: 0 all passed, 1 some failed, 2 bad arguments."""
    codes: list[int] = []
    error = run_cli("doctor", lambda: codes.append(diagnose(argv)))
    return error or codes[0]


if __name__ == "__main__":
    exit_process(main())
