import shutil

import pytest
import yaml

from tests.jobs.commands import content_of, file_names, read_json, run_job
from tests.tiny.plan import write_recipes


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return write_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def planned(stages, tmp_path_factory):
    """Complete run of a plan."""
    run_dir = tmp_path_factory.mktemp("plan") / "run"
    assert run_job("plan", run_dir, stages=stages) == 0
    return run_dir


def test_a_plan_consists_of_a_page_and_its_numbers(planned):
    outputs = {"plan.json", "plan.html"}
    assert file_names(planned) == outputs | {"manifest.json", "config.yaml"}
    assert set(content_of(planned)["outputs"]) == outputs


def test_costs_and_worker_hours_add_up(planned):
    plan = read_json(planned / "plan.json")
    assert plan["total"]["cost"] == pytest.approx(sum(stage["cost"] for stage in plan["stages"]))
    for run in plan["scaling"]:
        assert run["worker_hours"] == pytest.approx(run["hours"] * run["workers"])
    assert [run["workers"] for run in plan["scaling"]] == [1, 2, 4, 8, 16, 32, 64]


def test_the_page_needs_no_script_and_no_network(planned):
    page = (planned / "plan.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert "all-reduce" in page


def test_an_unchanged_plan_is_shown_again_and_a_changed_one_replaces_it(stages, planned, tmp_path, capsys):
    run_dir = shutil.copytree(planned, tmp_path / "run")
    assert run_job("plan", run_dir, stages=stages) == 0
    output = capsys.readouterr().out
    for text in ("skipped", "DistilBERT, 8 x V100", "Stragglers: each worker"):
        assert text in output
    assert run_job("plan", run_dir, "cluster.mfu=0.1", "estimate.tokens_per_s=1000", stages=stages) == 0
    output = capsys.readouterr().out
    assert "skipped" not in output
    assert "1,000 tokens/s, from the recipe" in output
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["config"]["cluster"]["mfu"] == 0.1
