"""One verb per file: each job is a station of the line, run as `python -m jobs.<name>`."""

from __future__ import annotations

from pathlib import Path


def job_names() -> list[str]:
    """The modules of this package, each a command."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")
