"""Plans of the shipped recipes with small inputs."""

import contextlib
import importlib
import io
import json
import os
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
from tests.jobs.recipe_inputs import CHECKOUT, REPORT_RUNS, job_of, replace_locations
from tests.tiny.glue import small_rows

RECIPES = sorted((CHECKOUT / "jobs" / "recipes").glob("*/*.yaml"))

# The port of the recipe may be in use.
_CHANGES: Mapping[str, list[str]] = {"serve_fill_mask": ["port=0"]}


def recipe_name(recipe: Path) -> str:
    return f"{recipe.parent.name}/{recipe.stem}"


def plan_of(recipe: Path, inputs: Path, folder: Path) -> list[str]:
    """Return the lines that a dry run prints, with placeholders for folders, the port and the processor.

    Args:
        folder: empty working folder, so that a location that was not replaced does not exist.
    """
    printed = io.StringIO()
    # Wide enough for every line, so that the length of the folder's name does not change the lines.
    wide = patch.dict(os.environ, {"COLUMNS": "1000"})
    with wide, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert run_recipe(recipe, inputs, folder / "run", "--dry-run") == 0
    text = printed.getvalue()
    for path, name in ((inputs, "INPUTS"), (folder, "FOLDER"), (CHECKOUT, "CHECKOUT")):
        text = text.replace(str(path), name)
    text = re.sub(r"(?m)^(CPU|threads)( +).*$", r"\1\2OF THIS MACHINE", text)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text).splitlines()


def run_recipe(recipe: Path, inputs: Path, run_dir: Path, *arguments: str) -> int:
    """Run the job of a recipe with small inputs, and return the exit code."""
    main = importlib.import_module(f"jobs.{job_of(recipe)}").main
    with _planning_machine():
        return int(main(["--recipe", str(recipe), *overrides(recipe, inputs, run_dir), *arguments]))


@contextlib.contextmanager
def _planning_machine() -> Iterator[None]:
    """Pretend that the machine has eight GPUs, and that the small GLUE files have the official numbers of rows."""
    rows = {name: {split: (count,) for split, count in small_rows(name).items()} for name in GLUE_TASKS}
    tasks = {name: replace(TASKS[name], row_counts=counts) for name, counts in rows.items()}
    with patch.object(torch.cuda, "device_count", lambda: 8), patch.dict(TASKS, tasks):
        yield


def overrides(recipe: Path, inputs: Path, run_dir: Path) -> list[str]:
    """Return the overrides of a recipe for the small inputs."""
    result = [f"run_dir={run_dir}"] if "run_dir" in read_yaml(str(recipe)) else []
    result += [f"{key}={json.dumps(value)}" for key, value in input_values(recipe, inputs).items()]
    return result + _CHANGES.get(job_of(recipe), [])


def input_values(recipe: Path, inputs: Path) -> dict[str, Any]:
    """Return the top-level values of a recipe that contain inputs, with their locations in a folder."""
    values = read_yaml(str(recipe))
    folder = inputs / REPORT_RUNS if job_of(recipe) == "write_report" else inputs
    replaced = {key: replace_locations(value, folder) for key, value in values.items() if key != "run_dir"}
    return {key: value for key, value in replaced.items() if value != values[key]}
