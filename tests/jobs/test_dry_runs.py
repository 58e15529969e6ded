"""Every recipe that is shipped can be planned: `--dry-run` with tiny files in place of what it reads."""

from pathlib import Path

import pytest

from tests.golden.record import DRY_RUNS, recorded
from tests.jobs.recipe_inputs import write_inputs
from tests.jobs.recipe_plans import RECIPES, overrides, plan_of, recipe_name

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def files(folder: Path) -> set[tuple[str, int]]:
    return {(str(file), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("recipe", RECIPES, ids=recipe_name)
def test_a_dry_run_of_a_shipped_recipe_prints_its_recorded_plan_and_writes_nothing(
    recipe: Path, inputs: Path, tmp_path: Path
) -> None:
    before = files(inputs)
    plan = plan_of(recipe, inputs, tmp_path)
    assert plan == recorded(DRY_RUNS).get(recipe_name(recipe)), "if that is meant: make golden"
    assert not list(tmp_path.iterdir())
    assert files(inputs) == before


def test_a_location_without_a_fake_is_reported(inputs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run_dir: runs/x\ncorpus_dir: /mnt/distilray/no-such\n")
    with pytest.raises(AssertionError, match=r"nothing stands in for .*no-such"):
        overrides(recipe, inputs, tmp_path)
