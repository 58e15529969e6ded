"""Dry runs of all shipped recipes with small inputs, and the help of all jobs."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import job_names
from tests.golden.record import DRY_RUNS, recorded
from tests.jobs.recipe_inputs import job_of
from tests.jobs.recipe_plans import RECIPES, input_values, plan_of, recipe_name, run_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

# One recipe of each job, and its values that contain required inputs.
FIRST = {job_of(recipe): recipe for recipe in reversed(RECIPES)}
INPUTS = [(recipe, key) for recipe in FIRST.values() for key in input_values(recipe, Path("/"))
          if key not in ("optional_paths", "stages")]  # fmt: skip


def files(folder: Path) -> set[tuple[str, int]]:
    return {(str(file), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("recipe", RECIPES, ids=recipe_name)
def test_a_dry_run_of_a_shipped_recipe_prints_its_recorded_plan_and_writes_nothing(
    recipe: Path, inputs: Path, tmp_path: Path
) -> None:
    before = files(inputs)
    plan = plan_of(recipe, inputs, tmp_path)
    assert plan == recorded(DRY_RUNS).get(recipe_name(recipe)), "if the change is intended: make golden"
    assert not list(tmp_path.iterdir())
    assert files(inputs) == before


@pytest.mark.parametrize("name", ["search_glue/random", "choose_settings/quickstart"])
def test_long_values_of_a_plan_are_wrapped_at_100_columns(
    name: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    (recipe,) = (recipe for recipe in RECIPES if recipe_name(recipe) == name)
    assert run_recipe(recipe, inputs, tmp_path / "run", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(" " * 17) for line in lines)
    assert not [line for line in lines if len(line) > 100 and len(line.split()) > 2]  # a label and a long path


@pytest.mark.parametrize(("recipe", "key"), INPUTS, ids=[f"{recipe_name(recipe)}-{key}" for recipe, key in INPUTS])
def test_a_missing_input_is_reported_in_one_line_that_names_it(
    recipe: Path, key: str, inputs: Path, tmp_path: Path, error_line: Callable[[int], str]
) -> None:
    missing = input_values(recipe, tmp_path)[key]
    assert str(tmp_path) in error_line(run_recipe(recipe, inputs, tmp_path / "run", f"{key}={missing}"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", job_names())
def test_help_shows_the_command_and_exits_with_code_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        importlib.import_module(f"jobs.{name}").main(["--help"])
    assert exit_info.value.code == 0
    assert f"usage: python -m jobs.{name}" in capsys.readouterr().out
