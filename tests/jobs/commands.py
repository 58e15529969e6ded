"""Commands of jobs with generated recipes, and the files of their runs."""

import importlib
import json
from pathlib import Path
from typing import Any

import yaml

from distilray.runtime.run_folder import read_manifest


def run_job(job: str, run_dir: Path, *arguments: str, **values: object) -> int:
    """Write a recipe into the parent of a run folder, run the job with it, and return the exit code."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    recipe = run_dir.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"run_dir": str(run_dir), **values}, sort_keys=False))
    return int(importlib.import_module(f"jobs.{job}").main(["--recipe", str(recipe), *arguments]))


def content_of(run_dir: Path) -> dict[str, Any]:
    """Return the reproducible section of the manifest of a complete run."""
    return dict(read_manifest(str(run_dir))["content"])


def content_hash(run_dir: Path) -> str:
    return str(read_manifest(str(run_dir))["content_hash"])


def read_json(file: Path) -> Any:
    return json.loads(file.read_text())


def file_names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}
