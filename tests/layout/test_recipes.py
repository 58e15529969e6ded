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


def test_every_stage_has_a_job_and_a_recipe_in_the_folder_of_the_job() -> None:
    jobs = {file.stem for file in (ROOT / "jobs").glob("*.py")}
    assert set(STAGES) <= jobs
    assert set(STAGES) <= set(map(job_of, RECIPES))
    assert {file for file in (ROOT / "jobs" / "recipes").rglob("*") if file.is_file()} == set(RECIPES)
