"""Every recipe that is shipped can be used, and every job has one."""

import importlib
from pathlib import Path

import pytest

from distilray.config.base import Config
from distilray.config.recipe import load_recipe
from distilray.stages import STAGES
from tests.jobs.recipe_inputs import job_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*/*.yaml"))
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py") if file.name != "__init__.py")


def config_of(name: str) -> type[Config]:
    """The config class of a job; of one that makes no run folder, and so is no `Job`, the one that its module reads."""
    module = importlib.import_module(f"jobs.{name}")
    if name in STAGES:
        return STAGES[name].config_class
    (found,) = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Config)]
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_recipe_loads_with_the_config_of_its_job(recipe: Path) -> None:
    load_recipe(str(recipe), [], config_of(job_of(recipe)))


def test_recipes_lie_two_levels_deep_and_end_in_yaml() -> None:
    files = {file for file in (ROOT / "jobs" / "recipes").rglob("*") if file.is_file()}
    assert files == set(RECIPES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_a_recipe_and_a_job(name: str) -> None:
    assert name in map(job_of, RECIPES)
    assert name in JOBS
