"""Inputs of benchmarks."""

import sys
from pathlib import Path

QUICKSTART = Path("runs/quickstart")


def quickstart_run(name: str) -> str:
    """Return the path of a run of the quickstart; exit with code 2 if it does not exist."""
    folder = QUICKSTART / name
    if not (folder / "manifest.json").is_file():
        print(f"{folder}: no complete run; run `make quickstart` first, or give a run as argument", file=sys.stderr)
        sys.exit(2)
    return str(folder)
