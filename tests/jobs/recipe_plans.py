"""The plan of a shipped recipe, `--dry-run`, with tiny files in place of what it reads."""

import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from distilray.config.glue import GLUE_TASKS
from distilray.config.recipe import read_yaml
from distilray.finetuning.tasks import TASKS
from distilray.runtime.file_search import find_files
from tests.jobs.recipe_inputs import CHECKOUT, REPORT_RUNS, job_of, stand_in
from tests.tiny.glue import small_rows

RECIPES = sorted((CHECKOUT / "jobs" / "recipes").glob("*/*.yaml"))

# Somebody may listen on the port of the recipe.
_CHANGES: Mapping[str, list[str]] = {"serve_fill_mask": ["port=0"]}


def recipe_name(recipe: Path) -> str:
    return f"{recipe.parent.name}/{recipe.stem}"


def plan_of(recipe: Path, inputs: Path, folder: Path) -> list[str]:
    """The lines that a dry run prints, with names for the folders, the port and the processor of this machine."""
    main, printed = importlib.import_module(f"jobs.{job_of(recipe)}").main, io.StringIO()
    arguments = overrides(recipe, inputs, folder / "run")
    # A path that nobody replaced is not found in `folder`.
    with _planning_machine(), contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        code = main(["--recipe", str(recipe), "--dry-run", *arguments])
    assert code == 0
    text = printed.getvalue()
    for path, name in ((inputs, "INPUTS"), (folder, "FOLDER"), (CHECKOUT, "CHECKOUT")):
        text = text.replace(str(path), name)
    text = re.sub(r"(?m)^(CPU|threads)( +).*$", r"\1\2OF THIS MACHINE", text)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text).splitlines()


@contextlib.contextmanager
def _planning_machine() -> Iterator[None]:
    """Eight GPUs, as the machine that a search is planned for; and files of GLUE with the rows of the stand-ins."""
    rows = {name: {split: (count,) for split, count in small_rows(name).items()} for name in GLUE_TASKS}
    tasks = {name: replace(TASKS[name], row_counts=counts) for name, counts in rows.items()}
    with patch.object(torch.cuda, "device_count", lambda: 8), patch.dict(TASKS, tasks):
        yield


def overrides(recipe: Path, inputs: Path, run_dir: Path) -> list[str]:
    """Overrides that make a recipe read the small inputs."""
    values = read_yaml(str(recipe))
    found = [f"run_dir={run_dir}"] if "run_dir" in values else []
    folder = inputs / REPORT_RUNS if job_of(recipe) == "write_report" else inputs
    for key, value in values.items():
        given = stand_in(value, folder)
        if key == "run_dir" or given == value:
            continue
        for path in _paths(given):
            assert _exists(path), f"{key}: nothing stands in for {path}; write it in recipe_inputs.py"
        found.append(f"{key}={json.dumps(given)}")
    return found + _CHANGES.get(job_of(recipe), [])


def _paths(value: Any) -> Iterator[str]:
    """The paths of stand-ins inside a value."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _paths(inner)
    elif isinstance(value, str) and value.startswith("/"):
        yield value


def _exists(path: str) -> bool:
    return bool(find_files(path)) if "*" in path else Path(path).exists()
