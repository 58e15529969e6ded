"""GLUE evaluation with fine-tuning runs in this process; the small numbers of rows count as the official ones."""

import hashlib
import itertools
import json
import shutil
import threading
import zipfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from distilray.config.glue import GLUE_TASKS
from distilray.evaluation.glue import evaluate_glue as glue_scores
from distilray.evaluation.glue import submission
from distilray.finetuning import fine_tune
from distilray.finetuning.fine_tune_run import execute_run
from distilray.finetuning.tasks import TASKS
from distilray.runtime import resources
from distilray.runtime.resources import Node
from distilray.runtime.run_folder import read_manifest
from jobs import evaluate_glue
from tests.jobs.commands import content_of, read_json, run_job
from tests.tiny.glue import OFFICIAL_ROWS, write_raw

CHANGES = {
    "precision": "fp32",
    "scaling": {"use_gpu": False, "cpus_per_worker": 1, "max_parallel": 1},
    "fine_tuning": {"epochs": 2, "batch_size": 16, "max_length": 32, "max_train_examples": 32, "seeds": [1, 2]},
}
ROWS = {
    task: {split: 40 if split == "train" else 21 if split.startswith("dev") else 9 for split in OFFICIAL_ROWS[task]}
    for task in GLUE_TASKS
}
SMALL_TASKS = {
    task: replace(TASKS[task], row_counts={split: (count,) for split, count in rows.items()})
    for task, rows in ROWS.items()
}
SMALL_FILES = [replace(file, rows=ROWS[file.task][file.test]) for file in submission.FILES]


@contextmanager
def one_process():
    """Execute fine-tuning runs in this process instead of Ray workers."""

    def fit(plan, run):
        execute_run(plan, run, plan.features[run.task], device=torch.device("cpu"))

    with (
        patch.dict(TASKS, SMALL_TASKS),
        patch.object(submission, "FILES", SMALL_FILES),
        patch.object(fine_tune, "_fit", fit),
        patch.object(fine_tune, "_POLL_S", 0.05),
        patch.object(fine_tune.ray, "put", lambda value: value),
        patch.object(resources, "cluster_nodes", lambda: [Node({"CPU": 2.0})]),
        patch.object(glue_scores, "ray_session", lambda _: nullcontext()),
    ):
        yield


@pytest.fixture(autouse=True)
def _in_process(one_thread):
    with one_process():
        yield


@pytest.fixture(scope="module")
def glue_dir(tmp_path_factory):
    """RTE, WNLI and STS-B in the raw layout."""
    folder = tmp_path_factory.mktemp("glue")
    for task in ("rte", "wnli", "stsb"):
        write_raw(folder, task, ROWS[task])
    return folder


@pytest.fixture
def run(glue_dir, distilbert_dir):
    """Return a function that runs the job."""

    def run(run_dir, *overrides, **values):
        recipe = {"model_dir": distilbert_dir, "glue_dir": str(glue_dir), **CHANGES}
        return run_job("evaluate_glue", run_dir, *overrides, **{**recipe, **values})

    return run


@pytest.fixture(scope="module")
def done(glue_dir, distilbert_dir, tmp_path_factory):
    """Complete run of two tasks; the files of a third are missing."""
    run_dir = tmp_path_factory.mktemp("done") / "run"
    recipe = {"model_dir": distilbert_dir, "glue_dir": str(glue_dir), **CHANGES, "tasks": ["rte", "wnli", "cola"]}
    with one_process():
        assert run_job("evaluate_glue", run_dir, **recipe) == 0
    return run_dir


def scores_of(run_dir):
    return read_json(run_dir / "scores.json")


def best_score(run_dir, task):
    rows = scores_of(run_dir)["rows"]
    return max(row["value"] for row in rows if (row["task"], row["metric"]) == (task, "accuracy"))


def test_every_score_has_its_task_split_seed_model_and_rows(done, distilbert_dir):
    rows = scores_of(done)["rows"]
    assert sorted({(row["task"], row["seed"]) for row in rows}) == [("rte", 1), ("rte", 2), ("wnli", 1), ("wnli", 2)]
    weights = Path(distilbert_dir, "model.safetensors").read_bytes()
    for row in rows:
        assert (row["split"], row["max_train_examples"], row["official_rows"]) == ("dev", 32, True)
        assert row["model_hash"] == hashlib.sha256(weights).hexdigest()


def test_the_scores_are_those_of_the_stored_dev_predictions(done):
    stored = {name for name in content_of(done)["outputs"] if name.startswith("predictions/")}
    assert stored == {f"predictions/{task}-seed-{seed}.parquet" for task in ("rte", "wnli") for seed in (1, 2)}
    for row in scores_of(done)["rows"]:
        table = pq.read_table(done / f"predictions/{row['task']}-seed-{row['seed']}.parquet").to_pydict()
        assert table["row"] == list(range(21))
        assert table["prediction"] == [float(np.argmax(outputs)) for outputs in table["outputs"]]
        correct = sum(
            label == prediction for label, prediction in zip(table["label"], table["prediction"], strict=True)
        )
        assert row["value"] == correct / 21


def test_a_task_has_an_interval_a_baseline_and_remarks_and_missing_tasks_are_listed(done):
    scores = scores_of(done)
    for task in ("rte", "wnli"):
        low, high = scores["intervals"][task]["score"]
        assert low <= scores["summary"][task]["score"]["median"] <= high
        assert scores["dev_rows"][task] == {"dev": 21}
    assert scores["majority"]["wnli"]["accuracy"] == pytest.approx(11 / 21)  # labels alternate
    assert scores["remarks"]["rte"][0] == "trained on 32 of 40 rows"
    assert scores["missing"] == ["cola"]
    assert "missing: cola" in read_manifest(str(done))["run"]["summary"]


def test_the_best_model_of_a_task_loads_in_transformers_and_the_others_are_removed(done):
    model = AutoModelForSequenceClassification.from_pretrained(done / "models" / "rte")
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert not list((done / "units").rglob("*.safetensors"))


def test_a_complete_run_is_skipped_and_shows_its_table(run, done, capsys):
    assert run(done, tasks=["rte", "wnli", "cola"]) == 0
    output = capsys.readouterr().out
    summary = "4 fine-tuning runs on 2 task(s), macro score"
    for text in (summary, "skipped", "missing: no such folder", "trained on 32"):
        assert text in output


def test_an_interrupted_run_resumes_with_the_same_scores(run, done, tmp_path):
    fit, executed = fine_tune._fit, []

    def recorded(plan, unit):
        if len(executed) == 1:
            executed.append("interrupted")
            raise KeyboardInterrupt
        executed.append(unit.name)
        fit(plan, unit)

    run_dir = tmp_path / "run"
    with patch.object(fine_tune, "_fit", recorded):
        assert run(run_dir, tasks=["rte", "wnli", "cola"]) == 130
        assert not (run_dir / "manifest.json").exists()
        assert run(run_dir, tasks=["rte", "wnli", "cola"]) == 0
    assert executed[1] == "interrupted"
    assert len(set(executed)) == len(executed) == 5
    assert scores_of(run_dir)["rows"] == scores_of(done)["rows"]


def test_the_number_of_parallel_runs_follows_the_size_of_the_cluster(run, tmp_path):
    fit, all_running, one_at_a_time = fine_tune._fit, threading.Barrier(4), threading.Lock()
    cpus = itertools.chain([1], itertools.repeat(2))

    def fit_together(plan, unit):
        all_running.wait(timeout=60)
        with one_at_a_time:
            fit(plan, unit)

    with (
        patch.object(fine_tune, "inside_cluster", lambda: True),
        patch.object(fine_tune, "check_run_dir_shared", lambda run_dir: None),
        patch.object(fine_tune, "ensure_capacity", lambda need, **_: 1),
        patch.object(fine_tune, "cluster_nodes", lambda: [Node({"CPU": next(cpus)})]),
        patch.object(fine_tune, "_fit", fit_together),
    ):
        assert run(tmp_path / "run", "scaling.max_parallel=null", tasks=["rte", "wnli"]) == 0


def test_a_run_with_the_same_model_as_its_teacher_keeps_everything(run, done, tmp_path, capsys):
    assert run(tmp_path / "run", tasks=["wnli"], teacher_run_dir=str(done)) == 0
    summary, _, table = capsys.readouterr().out.partition("\n")
    assert "no GLUE task in common with the teacher" in summary  # above chance
    assert "100.0%" in table
    kept = scores_of(tmp_path / "run")["kept"]["tasks"]["wnli"]
    assert kept["raw"] == 1.0
    assert kept["raw_interval"][0] <= 1.0 <= kept["raw_interval"][1]


def test_a_second_distillation_learns_from_the_fine_tuned_teacher(run, bert_dir, tmp_path):
    assert run(tmp_path / "teacher", tasks=["wnli"], model_dir=bert_dir) == 0
    assert run(tmp_path / "plain", tasks=["wnli"]) == 0
    distillation = {"teacher_run_dir": f"{tmp_path}/teacher", "alpha": 1.0}
    assert run(tmp_path / "again", tasks=["wnli"], distillation=distillation) == 0
    assert scores_of(tmp_path / "again")["remarks"]["wnli"][1] == "distilled again"
    losses = [
        read_json(tmp_path / name / "units/wnli-seed-1/result.json")["fine_tuned"]["best"]["train_loss"]
        for name in ("plain", "again")
    ]
    assert losses[0] != losses[1]


def test_rte_can_start_from_the_model_of_mnli(run, glue_dir, tmp_path):
    shutil.copytree(glue_dir, tmp_path / "glue")
    write_raw(tmp_path / "glue", "mnli", ROWS["mnli"])
    mnli = {"mnli": {"seeds": [7], "max_train_examples": 16, "epochs": 1}}
    recipe = {"glue_dir": f"{tmp_path}/glue", "tasks": ["rte", "mnli"], "start_from_mnli": True, "per_task": mnli}
    assert run(tmp_path / "run", **recipe) == 0
    scores = scores_of(tmp_path / "run")
    assert {(row["task"], row["start"]) for row in scores["rows"]} == {("rte", "mnli"), ("mnli", "model")}
    assert "started from MNLI" in scores["remarks"]["rte"]


def test_other_numbers_of_rows_need_a_key_and_are_stated_in_all_outputs(run, glue_dir, tmp_path, capfd, error_line):
    shutil.copytree(glue_dir, tmp_path / "glue")
    write_raw(tmp_path / "glue", "wnli", {"train": 39})
    recipe = {"tasks": ["wnli"], "glue_dir": f"{tmp_path}/glue", "submission": {"write": True, "fill_missing": True}}
    assert "set allow_other_row_counts=true" in error_line(run(tmp_path / "run", **recipe))
    assert run(tmp_path / "run", **recipe, allow_other_row_counts=True) == 0
    summary, table = capfd.readouterr().out.split("\n", 1)
    assert "rows differ from the official ones: wnli train 39 (40)" in summary
    assert "train 39 (40)" in " ".join(table.replace("│", " ").split())
    scores = scores_of(tmp_path / "run")
    assert scores["remarks"]["wnli"][0] == "rows differ from the official ones: train 39 (40)"
    assert {row["official_rows"] for row in scores["rows"]} == {False}
    assert content_of(tmp_path / "run")["counts"]["remarks"] == scores["remarks"]
    with zipfile.ZipFile(tmp_path / "run" / "submission.zip") as archive:
        assert b"wnli train 39 (40)" in archive.comment


def test_a_submission_is_valid_and_the_filled_tasks_are_named(run, tmp_path, capsys):
    assert run(tmp_path / "run", tasks=["wnli", "stsb"], submission={"write": True, "fill_missing": True}) == 0
    output = capsys.readouterr().out
    assert "QQP" in output
    assert "WNLI (" not in output
    file = tmp_path / "run" / "submission.zip"
    assert evaluate_glue.main(["--validate", str(file)]) == 0
    assert f"{file}: a valid submission of eleven files" in capsys.readouterr().out
    with zipfile.ZipFile(file) as archive:
        assert len(archive.read("WNLI.tsv").splitlines()) == 1 + 9


def test_a_file_that_is_not_a_submission_is_named(tmp_path, error_line):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("CoLA.tsv", "index\tprediction\n")
    assert f"{tmp_path}/odd.zip" in error_line(evaluate_glue.main(["--validate", f"{tmp_path}/odd.zip"]))


def test_a_dry_run_prints_rows_steps_and_missing_tasks(run, tmp_path, capsys):
    assert run(tmp_path / "run", "--dry-run", tasks=["rte", "cola"]) == 0
    plan = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert plan["rte"] == "32 of 40 train rows, 21 dev rows, 2 seed(s) x 4 steps of 16"
    assert plan["missing"] == "cola"


def test_test_files_are_not_opened_without_a_submission_but_dev_files_are(run, glue_dir, tmp_path, error_line):
    shutil.copytree(glue_dir, tmp_path / "glue")
    (tmp_path / "glue/RTE/dev.tsv").unlink()
    assert "dev.tsv" in error_line(run(tmp_path / "other", tasks=["rte"], glue_dir=f"{tmp_path}/glue"))
    (tmp_path / "glue/WNLI/test.tsv").unlink()
    assert run(tmp_path / "run", tasks=["wnli"], glue_dir=f"{tmp_path}/glue") == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [("scaling.cpus_per_worker=9", "1 worker with 9 CPU"), ("fine_tuning.max_length=64", "max_length: 64 exceeds")],
)
def test_a_setting_that_the_cluster_or_the_model_does_not_allow_is_rejected(
    run, tmp_path, error_line, override, message
):
    assert message in error_line(run(tmp_path / "run", override, tasks=["wnli"]))


# Models that were fine-tuned before.


@pytest.fixture
def fine_tuned(done, tmp_path):
    """Copy of the model of RTE."""
    return shutil.copytree(done / "models" / "rte", tmp_path / "model")


def test_a_fine_tuned_model_is_scored_without_training(run, done, fine_tuned, tmp_path, capsys):
    assert run(tmp_path / "run", "--dry-run", tasks=["rte"], train=False, model_dir=str(fine_tuned)) == 0
    assert "21 dev rows, no training" in capsys.readouterr().out
    assert run(tmp_path / "run", tasks=["rte"], train=False, model_dir=str(fine_tuned)) == 0
    (accuracy, score) = scores_of(tmp_path / "run")["rows"]
    assert accuracy["value"] == score["value"] == best_score(done, "rte")
    assert (accuracy["start"], accuracy["epoch"]) == ("fine-tuned", 0.0)
    assert "fine-tuned before" in scores_of(tmp_path / "run")["remarks"]["rte"]
    assert "a fine-tuned model on 1 task" in capsys.readouterr().out
    weights = [folder / "model.safetensors" for folder in (fine_tuned, tmp_path / "run" / "models" / "rte")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def set_labels(model_dir, names):
    config = read_json(model_dir / "config.json")
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    del config["finetuning_task"]
    (model_dir / "config.json").write_text(json.dumps(config))


def test_outputs_in_another_order_are_recognized_by_their_labels(run, done, fine_tuned, tmp_path):
    tensors = load_file(fine_tuned / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0)
    save_file(tensors, fine_tuned / "model.safetensors", metadata={"format": "pt"})
    set_labels(fine_tuned, ["Not Entailment", "ENTAILMENT"])
    assert run(tmp_path / "run", tasks=["rte"], train=False, model_dir=str(fine_tuned)) == 0
    assert best_score(tmp_path / "run", "rte") == best_score(done, "rte")
    config = read_json(tmp_path / "run" / "models" / "rte" / "config.json")
    assert config["id2label"] == {"0": "entailment", "1": "not_entailment"}


@pytest.mark.parametrize(
    ("names", "task", "message"),
    [
        (["LABEL_0", "LABEL_1"], "rte", "labels LABEL_0, LABEL_1, but rte has entailment, not_entailment"),
        (["entailment", "neutral", "contradiction"], "rte", "but rte has"),
        (["entailment", "entailment"], "rte", "but rte has"),
        (["entailment", "not_entailment"], "stsb", "2 outputs, but stsb needs one score"),
        (None, "wnli", "fine-tuned on rte, but a model for wnli is needed"),
    ],
)
def test_other_labels_than_those_of_the_task_are_rejected(run, fine_tuned, tmp_path, error_line, names, task, message):
    if names:
        set_labels(fine_tuned, names)
    line = error_line(run(tmp_path / "run", tasks=[task], train=False, model_dir=str(fine_tuned)))
    assert f"{fine_tuned}/config.json: " in line
    assert message in line
