"""Fault tolerance of fine-tuning on GLUE: resuming repeats no completed run and gives the same scores."""

import json

import pytest
import torch
import yaml

from distilray.config.glue import FineTuneScaling, TaskConfig
from distilray.finetuning.features import encode_task
from distilray.finetuning.files import load_task
from distilray.finetuning.fine_tune_run import FineTunePlan, FineTuneRun, execute_run
from distilray.pretraining_data.tokenizer import read_tokenizer
from jobs import evaluate_glue
from tests.faults.processes import kill, start, wait_for
from tests.tiny.glue import OFFICIAL_ROWS, write_raw
from tests.tiny.models import write_trainable_model

pytestmark = pytest.mark.slow

SETTINGS = {"epochs": 2, "batch_size": 8, "max_length": 32, "seeds": [1, 2], "dropout": 0.1}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "model").mkdir()
    write_trainable_model(tmp_path / "model", "distilbert")
    write_raw(tmp_path / "glue", "wnli", OFFICIAL_ROWS["wnli"])
    file = tmp_path / "recipe.yaml"
    values = {
        "run_dir": str(tmp_path / "run"),
        "model_dir": str(tmp_path / "model"),
        "glue_dir": str(tmp_path / "glue"),
        "tasks": ["wnli"],
        "precision": "fp32",
        "fine_tuning": SETTINGS,
        "scaling": {"use_gpu": False, "cpus_per_worker": 1, "max_parallel": 1},
        "ray": {"num_cpus": 2},
    }
    file.write_text(yaml.safe_dump(values))
    return file


def undisturbed(folder):
    """Fine-tune with all seeds sequentially in this process, and return the results."""
    torch.set_num_threads(1)
    settings = TaskConfig.model_validate(SETTINGS)
    features = encode_task(
        load_task(str(folder / "glue"), "wnli"), read_tokenizer(str(folder / "model")), settings, seed=56
    )
    plan = FineTunePlan(str(folder / "other"), "fp32", FineTuneScaling(use_gpu=False, cpus_per_worker=1))
    results = {}
    for seed in settings.seeds:
        run = FineTuneRun("wnli", seed, settings, str(folder / "model"))
        execute_run(plan, run, features, device=torch.device("cpu"))
        results[run.name] = result(folder / "other", run.name)
    return results


def result(run_dir, name):
    return json.loads((run_dir / "units" / name / "result.json").read_text())["fine_tuned"]


def without_times(scores):
    return json.loads(
        json.dumps(scores), object_hook=lambda values: {k: v for k, v in values.items() if k != "seconds"}
    )


def test_a_resumed_run_has_the_scores_of_an_undisturbed_one(root, recipe, tmp_path, local_ray):
    run_dir = tmp_path / "run"
    process = start(root, "evaluate_glue", recipe)
    wait_for(lambda: any(run_dir.glob("units/*/result.json")), process)
    kill(process)
    completed = {file: file.stat().st_mtime_ns for file in run_dir.glob("units/*/result.json")}
    assert completed
    assert not (run_dir / "manifest.json").exists()
    assert evaluate_glue.main(["--recipe", str(recipe)]) == 0
    assert {file: file.stat().st_mtime_ns for file in completed} == completed
    expected = undisturbed(tmp_path)
    for name, scores in expected.items():
        assert without_times(result(run_dir, name)) == without_times(scores)
