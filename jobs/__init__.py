"""Commands of the project, one per module: `python -m jobs.NAME`."""

from __future__ import annotations

from pathlib import Path


def job_names() -> list[str]:
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")
