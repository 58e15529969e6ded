"""The job that scores a model on GLUE: what it writes, says and refuses. Fine-tunings run in this process."""

import hashlib
import itertools
import json
import re
import shutil
import threading
import zipfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from distilray.evaluation.glue import evaluate_glue as glue_scores
from distilray.finetuning import fine_tune
from distilray.finetuning.fine_tune_run import execute_run
from distilray.runtime import resources
from distilray.runtime.resources import Node
from distilray.stages import STAGES
from jobs import evaluate_glue
from tests.tiny.glue import OFFICIAL_ROWS, write_raw
from tests.tiny.models import write_trainable_model

CHANGES = [
    "precision=fp32",
    "scaling={use_gpu: false, cpus_per_worker: 1, max_parallel: 1}",
    "fine_tuning={epochs: 2, batch_size: 16, max_length: 32, max_train_examples: 48, seeds: [1, 2]}",
]


@contextmanager
def one_process():
    """Units in this process in place of Ray's workers."""

    def fit(plan, unit):
        execute_run(plan, unit, plan.features[unit.task], device=torch.device("cpu"))

    with (
        patch.object(fine_tune, "_fit", fit),
        patch.object(fine_tune.ray, "put", lambda value: value),
        patch.object(resources, "cluster_nodes", lambda: [Node({"CPU": 2.0})]),
        patch.object(glue_scores, "ray_session", lambda _: nullcontext()),
    ):
        yield


@pytest.fixture(autouse=True)
def in_process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, and a GLUE folder with RTE, WNLI and STS-B; the rest is missing."""
    folder = tmp_path_factory.mktemp("glue-job")
    for name in ("student", "teacher"):
        (folder / name).mkdir()
    write_trainable_model(folder / "student", "distilbert")
    write_trainable_model(folder / "teacher", "bert")
    for task in ("rte", "wnli", "stsb"):
        write_raw(folder / "glue", task, OFFICIAL_ROWS[task])
    return folder


def run(folders, run_dir, *overrides, model="student"):
    recipe = run_dir.with_suffix(".yaml")
    values = {"run_dir": str(run_dir), "model_dir": str(folders / model), "glue_dir": str(folders / "glue")}
    recipe.write_text(yaml.safe_dump(values))
    return evaluate_glue.main(["--recipe", str(recipe), *CHANGES, *overrides])


def scores(run_dir):
    return json.loads((run_dir / "scores.json").read_text())


def manifest_of(run_dir):
    return json.loads((run_dir / "manifest.json").read_text())


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory):
    """A complete run on two tasks."""
    run_dir = tmp_path_factory.mktemp("done") / "run"
    with one_process():
        assert run(folders, run_dir, "tasks=[rte, wnli, cola]") == 0
    return run_dir


def test_every_number_says_its_task_split_seed_and_model(folders, done):
    rows = scores(done)["rows"]
    assert {(row["task"], row["seed"]) for row in rows} == {("rte", 1), ("rte", 2), ("wnli", 1), ("wnli", 2)}
    assert {row["split"] for row in rows} == {"dev"}
    weights = folders / "student" / "model.safetensors"
    assert {row["model_hash"] for row in rows} == {hashlib.sha256(weights.read_bytes()).hexdigest()}


def test_the_dev_predictions_of_a_run_give_its_scores_again(folders, done):
    manifest = json.loads((done / "manifest.json").read_text())
    found = {name for name in manifest["content"]["outputs"] if name.startswith("predictions/")}
    assert found == {f"predictions/{task}-seed-{seed}.parquet" for task in ("rte", "wnli") for seed in (1, 2)}
    for row in scores(done)["rows"]:
        table = pq.read_table(done / f"predictions/{row['task']}-seed-{row['seed']}.parquet").to_pydict()
        assert table["row"] == list(range(OFFICIAL_ROWS[row["task"]]["dev"]))
        assert table["prediction"] == [float(np.argmax(outputs)) for outputs in table["outputs"]]
        right = sum(label == answer for label, answer in zip(table["label"], table["prediction"], strict=True))
        assert row["value"] == right / len(table["label"])


def test_every_task_has_an_interval_that_holds_its_score(done):
    found = scores(done)
    for task in ("rte", "wnli"):
        low, high = found["intervals"][task]["score"]
        assert low <= found["summary"][task]["score"]["median"] <= high
        assert found["dev_rows"][task] == {"dev": OFFICIAL_ROWS[task]["dev"]}


def test_missing_parts_are_reported(done):
    assert scores(done)["missing"] == ["cola"]
    assert "missing: cola" in manifest_of(done)["run"]["summary"]


def test_a_score_on_a_part_of_the_rows_says_so(done):
    found = scores(done)
    assert found["remarks"]["rte"][0] == "trained on 48 of 2,490 rows"
    assert {row["max_train_examples"] for row in found["rows"]} == {48}


def test_wnli_is_compared_with_its_majority_baseline(done):
    labels = [row % 2 for row in range(OFFICIAL_ROWS["wnli"]["dev"])]
    assert scores(done)["majority"]["wnli"]["accuracy"] == pytest.approx(labels.count(0) / len(labels))


def test_the_model_of_each_task_loads_with_plain_transformers(done):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(done / "models" / "rte")
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert not list((done / "units").rglob("*.safetensors"))


def test_run_again_it_is_skipped_and_shows_its_table(folders, done, capsys):
    assert run(folders, done, "tasks=[rte, wnli, cola]") == 0
    output = capsys.readouterr().out
    assert "skipped" in output
    assert "missing: no such folder" in output
    assert "trained on 48" in output


def test_a_run_that_was_interrupted_does_what_is_left_and_ends_the_same(folders, done, tmp_path):
    original, taken = fine_tune._fit, []

    def interrupted(plan, unit):
        if len(taken) == 1:
            raise KeyboardInterrupt
        taken.append(unit.name)
        original(plan, unit)

    run_dir = tmp_path / "run"
    with patch.object(fine_tune, "_fit", interrupted):
        assert run(folders, run_dir, "tasks=[rte, wnli, cola]") == 130
    assert not (run_dir / "manifest.json").exists()
    again = []

    def counted(plan, unit):
        again.append(unit.name)
        original(plan, unit)

    with patch.object(fine_tune, "_fit", counted):
        assert run(folders, run_dir, "tasks=[rte, wnli, cola]") == 0
    assert len(again) == 3
    assert not set(again) & set(taken)
    assert scores(run_dir)["rows"] == scores(done)["rows"]


def test_fine_tunings_follow_a_cluster_that_grows(folders, tmp_path):
    original, all_running, one_at_a_time = fine_tune._fit, threading.Barrier(4), threading.Lock()
    cpus = itertools.chain([1], itertools.repeat(2))

    def fit(plan, unit):
        all_running.wait(timeout=60)
        with one_at_a_time:
            original(plan, unit)

    with (
        patch.object(fine_tune, "inside_cluster", lambda: True),
        patch.object(fine_tune, "check_run_dir_shared", lambda run_dir: None),
        patch.object(fine_tune, "ensure_capacity", lambda need, **_: 1),
        patch.object(fine_tune, "cluster_nodes", lambda: [Node({"CPU": next(cpus)})]),
        patch.object(fine_tune, "_fit", fit),
    ):
        assert run(folders, tmp_path / "run", "tasks=[rte, wnli]", "scaling.max_parallel=null") == 0


def test_the_share_of_the_teacher_is_shown(folders, done, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "tasks=[wnli]", f"teacher_run_dir={done}") == 0
    assert "100.0%" in capsys.readouterr().out
    # The same model on the same rows, with seeds of its own.
    kept = scores(tmp_path / "run")["kept"]["tasks"]["wnli"]
    assert kept["raw"] == 1.0
    assert kept["raw_interval"][0] <= 1.0 <= kept["raw_interval"][1]


def test_a_second_distillation_reads_the_fine_tuned_teacher(folders, tmp_path):
    assert run(folders, tmp_path / "teacher", "tasks=[wnli]", model="teacher") == 0
    again = f"distillation={{teacher_run_dir: {tmp_path}/teacher, alpha: 1.0}}"
    assert run(folders, tmp_path / "plain", "tasks=[wnli]") == 0
    assert run(folders, tmp_path / "again", "tasks=[wnli]", again) == 0
    assert scores(tmp_path / "again")["remarks"]["wnli"][1] == "distilled again"
    losses = [
        json.loads((tmp_path / name / "units/wnli-seed-1/result.json").read_text())["fine_tuned"]["best"]["train_loss"]
        for name in ("plain", "again")
    ]
    assert losses[0] != losses[1]


def test_rte_started_from_mnli_says_so(folders, tmp_path):
    glue = tmp_path / "glue"
    shutil.copytree(folders / "glue", glue)
    write_raw(
        glue, "mnli", {split: OFFICIAL_ROWS["mnli"][split] for split in ("train", "dev_matched", "dev_mismatched")}
    )
    small = "per_task={mnli: {seeds: [7], max_train_examples: 16, epochs: 1}}"
    more = [f"glue_dir={glue}", "tasks=[rte, mnli]", "start_from_mnli=true", small]
    assert run(folders, tmp_path / "run", *more) == 0
    found = scores(tmp_path / "run")
    assert {(row["task"], row["start"]) for row in found["rows"]} == {("rte", "mnli"), ("mnli", "model")}
    assert "started from MNLI" in found["remarks"]["rte"]


def one_row_short(folders, tmp_path):
    """The GLUE folder with WNLI's train file without its last row."""
    glue = tmp_path / "glue"
    shutil.copytree(folders / "glue", glue)
    write_raw(glue, "wnli", {"train": OFFICIAL_ROWS["wnli"]["train"] - 1})
    return f"glue_dir={glue}"


def test_other_rows_are_accepted_by_a_key_and_all_outputs_say_so(folders, tmp_path, capsys):
    more = ["tasks=[wnli]", one_row_short(folders, tmp_path), "submission={write: true, fill_missing: true}"]
    assert "set allow_other_row_counts=true" in refusal(capsys, run(folders, tmp_path / "run", *more))
    assert run(folders, tmp_path / "run", *more, "allow_other_row_counts=true") == 0
    printed = capsys.readouterr().out
    summary, table = printed.split("\n", 1)
    assert "rows differ from the official ones: wnli train 634 (635)" in summary
    assert "train 634 (635)" in " ".join(table.replace("│", " ").split())
    found = scores(tmp_path / "run")
    assert found["remarks"]["wnli"][0] == "rows differ from the official ones: train 634 (635)"
    assert {row["official_rows"] for row in found["rows"]} == {False}
    assert manifest_of(tmp_path / "run")["content"]["counts"]["remarks"] == found["remarks"]
    with zipfile.ZipFile(tmp_path / "run" / "submission.zip") as archive:
        assert b"wnli train 634 (635)" in archive.comment
    assert evaluate_glue.main(["--validate", str(tmp_path / "run" / "submission.zip")]) == 0


def test_scores_on_the_official_rows_say_so(done):
    assert {row["official_rows"] for row in scores(done)["rows"]} == {True}


@pytest.fixture
def fine_tuned(done, tmp_path):
    """The model of RTE of a complete run, as a folder of its own."""
    return Path(shutil.copytree(done / "models" / "rte", tmp_path / "model"))


def best_scores(run_dir, task):
    rows = [row for row in scores(run_dir)["rows"] if row["task"] == task and row["metric"] == "accuracy"]
    return max(row["value"] for row in rows)


def test_a_fine_tuned_model_is_scored_without_training(folders, done, fine_tuned, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "tasks=[rte]", "train=false", f"model_dir={fine_tuned}") == 0
    (accuracy, score) = scores(tmp_path / "run")["rows"]
    assert accuracy["value"] == score["value"] == best_scores(done, "rte")
    assert (accuracy["start"], accuracy["epoch"]) == ("fine-tuned", 0.0)
    assert "fine-tuned before" in scores(tmp_path / "run")["remarks"]["rte"]
    assert "a fine-tuned model on 1 task" in capsys.readouterr().out
    weights = [folder / "model.safetensors" for folder in (fine_tuned, tmp_path / "run" / "models" / "rte")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def with_labels(folder, names):
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    del config["finetuning_task"]
    (folder / "config.json").write_text(json.dumps(config))


def test_outputs_in_another_order_are_known_by_their_names(folders, done, fine_tuned, tmp_path):
    file = fine_tuned / "model.safetensors"
    tensors = load_file(file)
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0)
    save_file(tensors, file, metadata={"format": "pt"})
    with_labels(fine_tuned, ["Not Entailment", "ENTAILMENT"])
    assert run(folders, tmp_path / "run", "tasks=[rte]", "train=false", f"model_dir={fine_tuned}") == 0
    assert best_scores(tmp_path / "run", "rte") == best_scores(done, "rte")
    config = json.loads((tmp_path / "run" / "models" / "rte" / "config.json").read_text())
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
def test_labels_that_are_not_those_of_the_task_are_refused(folders, fine_tuned, tmp_path, capsys, names, task, message):
    if names:
        with_labels(fine_tuned, names)
    line = refusal(capsys, run(folders, tmp_path / "run", f"tasks=[{task}]", "train=false", f"model_dir={fine_tuned}"))
    assert f"{fine_tuned}/config.json: " in line
    assert message in line


def test_a_model_without_a_head_cannot_be_scored(folders, tmp_path, capsys):
    line = refusal(capsys, run(folders, tmp_path / "run", "tasks=[rte]", "train=false"))
    assert "ForMaskedLM has no task head" in line


def test_the_submission_is_valid_and_says_what_was_filled(folders, tmp_path, capsys):
    more = ["tasks=[wnli, stsb]", "submission={write: true, fill_missing: true}"]
    assert run(folders, tmp_path / "run", *more) == 0
    output = capsys.readouterr().out
    assert "QQP" in output
    assert "WNLI (" not in output
    file = tmp_path / "run" / "submission.zip"
    assert evaluate_glue.main(["--validate", str(file)]) == 0
    with zipfile.ZipFile(file) as archive:
        assert len(archive.read("WNLI.tsv").splitlines()) == 147


def test_a_submission_with_something_absent_is_refused_unless_it_may_be_filled(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "tasks=[wnli]", "submission={write: true}") == 2
    assert "fill_missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # before anything was trained


def test_a_file_that_is_not_a_submission_is_named(tmp_path, capsys):
    file = tmp_path / "odd.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("CoLA.tsv", "index\tprediction\n")
    assert evaluate_glue.main(["--validate", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


def refusal(capsys, code):
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    return lines[0]


def changed(folders, tmp_path, name, old, new):
    """The GLUE folder with one text of a file changed."""
    glue = tmp_path / "glue"
    shutil.copytree(folders / "glue", glue)
    file = glue / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return f"glue_dir={glue}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sentence1\tsentence2", "sentence\tsentence2", "RTE/dev.tsv"),
        ("\tnot_entailment", "\tperhaps", "RTE/dev.tsv:3"),
        ("\tsecond 4\t", "\t", "RTE/dev.tsv:6"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_line(folders, tmp_path, capsys, old, new, message):
    glue = changed(folders, tmp_path, "RTE/dev.tsv", old, new)
    assert message in refusal(capsys, run(folders, tmp_path / "run", "tasks=[rte]", glue))


def test_a_missing_dev_file_is_refused_by_name(folders, tmp_path, capsys):
    glue = tmp_path / "glue"
    shutil.copytree(folders / "glue", glue)
    (glue / "RTE" / "dev.tsv").unlink()
    assert "dev.tsv" in refusal(capsys, run(folders, tmp_path / "run", "tasks=[rte]", f"glue_dir={glue}"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fine_tuning.metric=acuracy", "did you mean 'accuracy'"),
        ("tasks=[cola, qqp]", "none of cola, qqp"),
        ("model_dir=nowhere", "nowhere"),
        ("teacher_run_dir=nowhere", "nowhere"),
        ("start_from_mnli=true", "mnli"),
        ("scaling.cpus_per_worker=9", "1 worker with 9 CPU"),
        ("fine_tuning.max_length=512", "max_length"),
        ("fine_tuning.seeds=[1, 1]", "contains a duplicate"),
        ("tasks=[rte, wnli] train=false", "train: false scores only the task that model_dir was fine-tuned on"),
        ("tasks=[mnli] train=false start_from_mnli=true", "start_from_mnli: has no effect with train=false"),
    ],
)
def test_bad_input_is_one_line(folders, tmp_path, capsys, override, message):
    tasks = [] if override.startswith("tasks") else ["tasks=[wnli]"]
    overrides = re.split(r" (?=\w+=)", override)
    line = refusal(capsys, run(folders, tmp_path / "run", *tasks, *overrides))
    assert message in line


def test_a_dry_run_prints_rows_and_steps_and_starts_nothing(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "tasks=[rte, cola]", "--dry-run") == 0
    output = capsys.readouterr().out
    assert "48 of 2,490 train rows, 277 dev rows, 2 seed(s) x 6 steps of 16" in output
    assert "cola" in output
    assert not (tmp_path / "run").exists()


def test_the_test_sets_are_not_opened_without_a_submission(folders, tmp_path):
    glue = tmp_path / "glue"
    shutil.copytree(folders / "glue", glue)
    (glue / "WNLI" / "test.tsv").unlink()
    assert run(folders, tmp_path / "run", "tasks=[wnli]", f"glue_dir={glue}") == 0


def test_every_shipped_recipe_names_tasks_of_the_table():
    for file in (Path(__file__).parents[2] / "jobs/recipes/evaluate_glue").glob("*.yaml"):
        STAGES["evaluate_glue"].config_class.model_validate(yaml.safe_load(file.read_text()))
