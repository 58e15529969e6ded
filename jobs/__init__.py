"""One verb per file: each job is a station of the line, run as `python -m jobs.<name>`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def job_names() -> list[str]:
    """The modules of this package, each a command."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def find_job(name: str) -> Any | None:
    """The `Job` of a module of this package; None where there is no such module, or it makes no run folder."""
    return getattr(importlib.import_module(f"jobs.{name}"), "JOB", None) if name in job_names() else None
