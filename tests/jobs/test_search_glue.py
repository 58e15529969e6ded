import json
from pathlib import Path

import pytest
import yaml

from distilray.config.glue import EvaluateGlueConfig
from distilray.config.recipe import load_recipe
from distilray.runtime import storage
from jobs import evaluate_glue, search_glue
from tests.tiny.recipes import write_recipe
from tests.tiny.search import values, write_model, write_next_sentence_task, write_wnli
from tuning.records import read_records

RECIPES = sorted(Path("jobs/recipes/search_glue").glob("*.yaml"))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Return a folder with a model and two tasks with unreadable test files, so that a job that uses them fails."""
    folder = tmp_path_factory.mktemp("search")
    write_model(folder)
    write_next_sentence_task(folder / "glue")
    write_wnli(folder / "glue")
    for task in ("Follows", "WNLI"):
        (folder / "glue" / task / "test.tsv").write_bytes(b"\xff\xfe no text\n")
    return folder


def run(work, tmp_path, *arguments, **changes):
    recipe = write_recipe(tmp_path, **values(work, **{"run_dir": str(tmp_path / "run"), **changes}))
    return search_glue.main(["--recipe", recipe, *arguments])


def refusal(work, tmp_path, capfd, *arguments, **changes):
    assert run(work, tmp_path, *arguments, **changes) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert not (tmp_path / "run/trials").exists()
    return line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space.learning_rate={}", "space.learning_rate: no value set; set exactly one of choice"),
        ("space.learning_rte={choice: [1]}", "space.learning_rte: no such setting of a fine-tuning run; did you mean"),
        ("fine_tuning.metric=acuracy", "metric: 'acuracy' is not a metric of follows; did you mean 'accuracy'?"),
        ("space.epochs={choice: [0]}", "space.epochs: 0 is invalid"),
        ("method=genetic", "method"),
        ("trial.cpus=64", "no room for 1 trial with 64 CPU, 0.5 GiB of memory: the local cluster has 2 CPU"),
        ("trial.memory_gb=100000", "1 trial with 1 CPU, 93132.3 GiB of memory"),
        (
            "asha.grace_evaluations=9",
            "asha.grace_evaluations: 9, but the longest trial of follows has only 3 evaluations",
        ),
        ("space.max_length={choice: [64]}", "max_length: 64 tokens for follows"),
        ("seed=1", "seed: 1 is among the seeds of follows"),
        ("glue_dir=none", "none is not a folder"),
        ("tasks=[rte]", "contains none of rte"),
    ],
)
def test_an_impossible_search_is_refused_in_one_line(work, tmp_path, capfd, override, words):
    assert words in refusal(work, tmp_path, capfd, override)


def test_fractions_for_an_integer_are_refused_in_one_line(work, tmp_path, capfd):
    line = refusal(work, tmp_path, capfd, "method=random", "space.batch_size={uniform: [8, 16]}")
    assert "space.batch_size: uniform gives fractions" in line


def test_tpe_without_optuna_is_refused_with_the_package_to_install(work, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("tuning.plan.importlib.util.find_spec", lambda name: None)
    assert "pip install optuna" in refusal(work, tmp_path, capfd, "method=tpe")


def test_a_dry_run_prints_trials_evaluations_slots_and_memory(work, tmp_path, capsys):
    assert run(work, tmp_path, "--dry-run", tasks=["follows", "wnli", "rte"]) == 0
    plan = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert "6 trials" in plan["follows"]
    assert "18 evaluations at most, with ASHA at least 6" in plan["follows"]
    assert plan["missing"] == "rte"
    assert "1 CPU, 0.5 GiB (estimate)" in plan["trial"]
    assert "2: follows 1, wnli 1" in plan["concurrent"]
    assert not (tmp_path / "run").exists()


def test_no_test_file_is_opened(work, tmp_path, monkeypatch):
    (tmp_path / "glue").mkdir()
    for task in ("Follows", "WNLI"):
        (tmp_path / "glue" / task).symlink_to(work / "glue" / task)
    opened, read = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: opened.append(uri) or read(uri))
    assert run(work, tmp_path, "--dry-run", glue_dir=str(tmp_path / "glue"), tasks=["follows", "wnli"]) == 0
    names = {uri.rpartition("/")[2] for uri in opened if uri.endswith(".tsv")}
    assert names == {"train.tsv", "dev.tsv"}


@pytest.mark.slow
def test_two_tasks_are_searched_at_the_same_time_and_the_best_settings_are_a_recipe(work, tmp_path, capfd, local_ray):
    # Three trials of two points: one of them is named twice.
    space = {"learning_rate": {"choice": [1e-3, 3e-3]}}
    changes = {"method": "tpe", "num_trials": 3, "space": space, "per_task": {"wnli": {"seeds": [3]}}}
    changes["tasks"] = ["follows", "wnli"]
    assert run(work, tmp_path, **changes) == 0
    out = capfd.readouterr().out
    assert "median of 1 fresh seeds" in out
    folder = tmp_path / "run"
    scores = json.loads((folder / "scores.json").read_text())
    best = load_recipe(str(folder / "best.yaml"), [], EvaluateGlueConfig)
    begins, ends = [], []
    for task in ("follows", "wnli"):
        records = read_records(str(folder / "trials" / task))
        assert sorted(record.number for record in records.values()) == [0, 1, 2]
        files = {file.name for file in (folder / "trials" / task).rglob("*") if file.is_file()}
        assert files == {"record.json", "evaluations.json", "ended.json"}
        summary = scores["search"][task]
        winner = max(records.values(), key=lambda record: record.best("score").scores["score"])
        assert summary["winner"]["score"] == winner.best("score").scores["score"]
        assert {name: getattr(best.task_config(task), name) for name in space} == summary["winner"]["values"]
        assert summary["fresh"]["median"] == scores["summary"][task]["score"]["median"]
        assert list(summary["fresh"]["scores"]) == ["3" if task == "wnli" else "1"]
        assert summary["default"]["values"] == {"learning_rate": 1e-3}
        assert summary["majority"]["score"] == scores["majority"][task]["score"]
        begins.append(min(file.stat().st_mtime for file in (folder / "tune" / task).iterdir() if file.is_file()))
        ends.append((folder / "trials" / task / "ended.json").stat().st_mtime)
    above = [summary["majority"]["winner_is_above"] for summary in scores["search"].values()]
    assert out.count("above the majority baseline of 0.") == above.count(False)
    assert max(begins) < min(ends)
    assert not list(folder.glob("winners/**/*.safetensors"))
    assert evaluate_glue.main(["--recipe", str(folder / "best.yaml"), "--dry-run"]) == 0
    assert run(work, tmp_path, **changes) == 0
    assert "skipped" in capfd.readouterr().out


def test_the_recipe_of_the_demo_reads_the_output_of_the_demo():
    (demo,) = (yaml.safe_load(file.read_text()) for file in RECIPES if file.stem == "demo")
    follows = yaml.safe_load(Path("jobs/recipes/build_next_sentence_task/demo.yaml").read_text())
    assert demo["glue_dir"] == f"{follows['run_dir']}/glue"
