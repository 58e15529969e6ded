"""All shipped recipes are valid, and every stage has one."""

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
    """Return the config class of a job, which is in the job's module if the job is not a stage."""
    module = importlib.import_module(f"jobs.{name}")
    if name in STAGES:
        return STAGES[name].config_class
    (config_class,) = [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Config)
    ]
    return config_class


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_recipe_is_valid_for_its_job(recipe: Path) -> None:
    load_recipe(str(recipe), [], config_of(job_of(recipe)))


def test_recipes_are_yaml_files_in_folders_of_their_jobs() -> None:
    files = {file for file in (ROOT / "jobs" / "recipes").rglob("*") if file.is_file()}
    assert files == set(RECIPES)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_a_recipe_and_a_job(name: str) -> None:
    assert name in map(job_of, RECIPES)
    assert name in JOBS
