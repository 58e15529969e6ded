"""Every recipe that is shipped can be planned: `--dry-run` with tiny files in place of what it reads."""

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distilray.config.glue import GLUE_TASKS
from distilray.config.recipe import read_yaml
from distilray.evaluation.glue.tasks import TASKS
from distilray.runtime.file_search import find_files
from tests.distilray.evaluation.glue.small_glue import small_rows
from tests.jobs.recipe_inputs import REPORT_RUNS, job_of, stand_in, write_inputs

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*/*.yaml"))

# Of jobs that run the recipes of another one.
JOBS = {"run_ablation": "distill"}
# Somebody may listen on the port of the recipe.
CHANGES: Mapping[str, list[str]] = {"serve_fill_mask": ["port=0"]}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of GLUE have the rows of the stand-ins, where the official ones have a million."""
    for name in GLUE_TASKS:
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], rows=counts))


@pytest.fixture(autouse=True)
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search is planned for the machine at hand, and that of the recipes has GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def places(value: Any) -> Iterator[str]:
    """The paths of stand-ins inside a value."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from places(inner)
    elif isinstance(value, str) and value.startswith("/"):
        yield value


def overrides(recipe: Path, inputs: Path, run_dir: Path) -> list[str]:
    """What makes a recipe read the stand-ins; everything else stays as it says."""
    values = read_yaml(str(recipe))
    found = [f"run_dir={run_dir}"] if "run_dir" in values else []
    folder = inputs / REPORT_RUNS if job_of(recipe) == "write_report" else inputs
    for key, value in values.items():
        given = stand_in(value, folder)
        if key == "run_dir" or given == value:
            continue
        for place in places(given):
            assert there(place), f"{key}: nothing stands in for {place}; write it in recipe_inputs.py"
        found.append(f"{key}={json.dumps(given)}")
    return found + CHANGES.get(job_of(recipe), [])


def there(place: str) -> bool:
    return bool(find_files(place)) if "*" in place else Path(place).exists()


def files(folder: Path) -> set[tuple[str, int]]:
    return {(str(file), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_dry_run_of_a_shipped_recipe_prints_its_plan_and_writes_nothing(
    recipe: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = JOBS.get(job_of(recipe), job_of(recipe))
    main = importlib.import_module(f"jobs.{job}").main
    arguments = overrides(recipe, inputs, tmp_path / "run")
    before = files(inputs)
    monkeypatch.chdir(tmp_path)  # a place that nobody replaced is not found here
    assert main(["--recipe", str(recipe), "--dry-run", *arguments]) == 0, capfd.readouterr().err
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"{job}: plan, nothing started"
    assert len(lines) > 1
    assert not list(tmp_path.iterdir())
    assert files(inputs) == before


def test_a_place_without_a_stand_in_is_told(inputs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run_dir: runs/x\ncorpus_dir: /mnt/distilray/no-such\n")
    with pytest.raises(AssertionError, match=r"nothing stands in for .*no-such"):
        overrides(recipe, inputs, tmp_path)
