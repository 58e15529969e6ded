import re
from pathlib import Path

import pytest
import yaml

from distilray.config.glue import EvaluateGlueConfig
from distilray.config.recipe import load_recipe
from distilray.runtime import storage
from distilray.runtime.run_folder import describe_input
from jobs import evaluate_glue
from tests.jobs.commands import content_of, read_json, run_job
from tests.tiny.search import values, write_model, write_next_sentence_task, write_wnli
from tuning.records import read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and two tasks with unreadable test files, so that a job that reads them fails."""
    folder = tmp_path_factory.mktemp("search")
    write_model(folder)
    write_next_sentence_task(folder / "glue")
    write_wnli(folder / "glue")
    for task in ("Follows", "WNLI"):
        (folder / "glue" / task / "test.tsv").write_bytes(b"\xff\xfe no text\n")
    return folder


def run(folder, run_dir, *arguments, **changes):
    recipe = values(folder, **changes)
    del recipe["run_dir"]
    return run_job("search_glue", run_dir, *arguments, **recipe)


def test_tpe_without_optuna_is_rejected_with_the_package_to_install(folder, tmp_path, error_line, monkeypatch):
    monkeypatch.setattr("tuning.plan.importlib.util.find_spec", lambda name: None)
    assert "pip install optuna" in error_line(run(folder, tmp_path / "run", method="tpe"))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reads_only_train_and_dev_files_and_prints_the_number_of_evaluations(
    folder, tmp_path, capsys, monkeypatch
):
    opened, read = [], storage.read_bytes

    def recorded(uri):
        opened.append(uri)
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", recorded)
    (tmp_path / "glue").symlink_to(folder / "glue")  # not yet in any cache
    recipe = {"glue_dir": str(tmp_path / "glue"), "tasks": ["follows", "wnli", "rte"]}
    assert run(folder, tmp_path / "run", "--dry-run", **recipe) == 0
    assert {Path(uri).name for uri in opened if uri.endswith(".tsv")} == {"train.tsv", "dev.tsv"}
    plan = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert "6 trials" in plan["follows"]
    assert "18 evaluations at most, with ASHA at least 6" in plan["follows"]
    assert plan["missing"] == "rte"
    assert "1 CPU, 0.5 GiB (estimate)" in plan["trial"]
    assert "2: follows 1, wnli 1" in plan["concurrent"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_tasks_are_searched_at_the_same_time_and_the_best_settings_are_a_recipe(folder, tmp_path, capfd, local_ray):
    # Three trials of two points: one point is tried twice.
    space = {"learning_rate": {"choice": [1e-3, 3e-3]}}
    changes = {"method": "tpe", "num_trials": 3, "space": space, "per_task": {"wnli": {"seeds": [3]}}}
    changes["tasks"] = ["follows", "wnli"]
    run_dir = tmp_path / "run"
    assert run(folder, run_dir, **changes) == 0
    output = capfd.readouterr().out
    assert re.search(r"^search_glue: 6 trials, follows score [01]\.\d+ on dev", output, re.M)
    assert re.search(r"follows *│ *accuracy", output)
    for text in ("median of 1 fresh seeds", "follows: score of the best trials on dev"):
        assert text in " ".join(output.split())
    assert content_of(run_dir)["inputs"]["glue_follows"] == describe_input(str(folder / "glue/Follows"))
    scores = read_json(run_dir / "scores.json")
    best = load_recipe(str(run_dir / "best.yaml"), [], EvaluateGlueConfig)
    starts, ends = [], []
    for task in ("follows", "wnli"):
        records = read_records(str(run_dir / "trials" / task))
        assert sorted(record.number for record in records.values()) == [0, 1, 2]
        files = {file.name for file in (run_dir / "trials" / task).rglob("*") if file.is_file()}
        assert files == {"record.json", "evaluations.json", "ended.json"}
        summary = scores["search"][task]
        winner = max(records.values(), key=lambda record: record.best("score").scores["score"])
        assert summary["winner"]["score"] == winner.best("score").scores["score"]
        assert {name: getattr(best.task_config(task), name) for name in space} == summary["winner"]["values"]
        assert summary["fresh"]["median"] == scores["summary"][task]["score"]["median"]
        assert list(summary["fresh"]["scores"]) == ["3" if task == "wnli" else "1"]
        assert summary["default"]["values"] == {"learning_rate": 1e-3}
        assert summary["majority"]["score"] == scores["majority"][task]["score"]
        starts.append(min(file.stat().st_mtime for file in (run_dir / "tune" / task).iterdir() if file.is_file()))
        ends.append((run_dir / "trials" / task / "ended.json").stat().st_mtime)
    above = [summary["majority"]["winner_is_above"] for summary in scores["search"].values()]
    assert output.count("above the majority baseline of 0.") == above.count(False)
    assert max(starts) < min(ends)
    assert not list(run_dir.glob("winners/**/*.safetensors"))
    assert evaluate_glue.main(["--recipe", str(run_dir / "best.yaml"), "--dry-run"]) == 0
    assert run(folder, run_dir, **changes) == 0
    assert "skipped" in capfd.readouterr().out


def test_the_demo_searches_the_task_that_the_demo_builds():
    demo, task = (
        yaml.safe_load(Path(f"jobs/recipes/{job}/demo.yaml").read_text())
        for job in ("search_glue", "build_next_sentence_task")
    )
    assert demo["glue_dir"] == f"{task['run_dir']}/glue"
