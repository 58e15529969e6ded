import json
from pathlib import Path

import pytest
import yaml

from jobs import plan
from tests.tiny.plan import write_recipes
from tests.tiny.recipes import write_recipe

RECIPES = sorted(Path("jobs/recipes/plan").glob("*.yaml"))


@pytest.fixture
def run(tmp_path):
    def started(*arguments, **values):
        recipe = {"run_dir": str(tmp_path / "plan"), "stages": write_recipes(tmp_path), **values}
        return plan.main(["--recipe", write_recipe(tmp_path, **recipe), *arguments])

    return started


def test_a_plan_consists_of_two_files_and_the_manifest(run, tmp_path, capsys):
    assert run() == 0
    folder = tmp_path / "plan"
    made = {"plan.json", "plan.html"}
    assert {file.name for file in folder.iterdir()} == made | {"manifest.json", "config.yaml"}
    assert set(json.loads((folder / "manifest.json").read_text())["content"]["outputs"]) == made
    output = capsys.readouterr().out
    assert "DistilBERT, 8 x V100" in output
    assert "Stragglers: each worker" in output


def test_costs_of_the_file_add_up(run, tmp_path):
    assert run() == 0
    found = json.loads((tmp_path / "plan/plan.json").read_text())
    assert found["total"]["cost"] == pytest.approx(sum(one["cost"] for one in found["stages"]))
    for one in found["scaling"]:
        assert one["worker_hours"] == pytest.approx(one["hours"] * one["workers"])
    assert [one["workers"] for one in found["scaling"]] == [1, 2, 4, 8, 16, 32, 64]


def test_the_page_needs_no_script_and_no_network(run, tmp_path):
    assert run() == 0
    page = (tmp_path / "plan/plan.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert "all-reduce" in page


def test_an_unchanged_plan_is_skipped_and_a_changed_one_replaces_it(run, tmp_path, capsys):
    assert run() == run() == 0
    assert "skipped" in capsys.readouterr().out
    assert run("cluster.mfu=0.1") == 0
    assert "skipped" not in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "plan/config.yaml").read_text())["config"]["cluster"]["mfu"] == 0.1


def test_the_rate_decides_the_plan(run, tmp_path, capsys):
    assert run() == 0
    assert run("estimate.tokens_per_s=1000") == 0
    assert "1,000 tokens/s, from the recipe" in capsys.readouterr().out


def test_a_dry_run_prints_the_stages_and_writes_nothing(run, tmp_path, capsys):
    assert run("--dry-run") == 0
    output = capsys.readouterr().out
    assert "distill" in output
    assert "GPU-hours" in output
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.machine=toaster", "cluster.machine: no machine 'toaster'"),
        ("cluster.market=spot", "set cluster.price_per_machine_hour"),
        ("stages.distill.path=none.yaml", "none.yaml"),
        ("stages.distill.overrides=[learning=1]", "learning"),
        ("slowdowns.preemptions_per_machine_hour=100000000", "would not end"),
        ("simulation.workers=[0]", "simulation.workers"),
        ("estimate.measured_run_dir=nowhere", "nowhere"),
    ],
)
def test_an_impossible_plan_is_refused_in_one_line(run, tmp_path, capfd, override, words):
    assert run(override) == 2
    (output,) = capfd.readouterr().err.splitlines()
    assert words in output
    assert not (tmp_path / "plan/manifest.json").exists()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_planned(recipe, tmp_path, capsys):
    assert plan.main(["--recipe", str(recipe), "--dry-run", f"run_dir={tmp_path}/plan"]) == 0
    assert "does not fit" not in capsys.readouterr().out
