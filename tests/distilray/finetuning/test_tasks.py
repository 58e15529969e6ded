from typing import get_args

import numpy as np
import pytest

from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.errors import InputError
from distilray.evaluation.glue.comparison import resample
from distilray.finetuning.dev_predictions import predictions_file, read_seed_predictions, write_dev_predictions
from distilray.finetuning.examples import check_row_count
from distilray.finetuning.files import find_tasks, load_task
from distilray.finetuning.metrics import majority_scores, task_scores
from distilray.finetuning.tasks import TASKS, FineTuneTask
from tests.tiny.glue import FOLDERS, OFFICIAL_ROWS, labels_of, write_lines


def test_the_table_contains_every_task_of_the_recipes():
    assert sorted(TASKS) == sorted(get_args(TaskName))
    assert all(TASKS[name].name == name for name in TASKS)


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_a_task_of_glue_has_its_official_labels_and_folders(name):
    task = TASKS[name]
    assert task.labels == (() if name == "stsb" else tuple(labels_of(name)))
    assert (task.is_regression, task.num_outputs) == ((True, 1) if name == "stsb" else (False, len(task.labels)))
    assert {name, FOLDERS[name].lower()} <= set(task.folders)
    assert sorted(task.row_counts) == sorted(["train", *task.dev, *task.test])


def test_no_two_tasks_share_a_folder():
    folders = [folder for task in TASKS.values() for folder in task.folders]
    assert sorted(folders) == sorted(set(folders))


def test_the_next_sentence_task_has_the_layout_of_rte_without_official_rows():
    follows, rte = TASKS["follows"], TASKS["rte"]
    assert (follows.columns, follows.label, follows.dev) == (rte.columns, rte.label, rte.dev)
    assert (follows.row_counts, follows.test, follows.num_outputs) == ({}, (), 2)


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_only_official_row_counts_are_accepted(name):
    for split, rows in OFFICIAL_ROWS[name].items():
        check_row_count("file", TASKS[name], split, [rows])
        check_row_count("file", TASKS[name], split, [3, rows])
        for count in (rows - 1, rows + 2):
            with pytest.raises(
                InputError, match=f"^file: {count:,} rows, but {TASKS[name].title} has {rows:,}"
            ) as error:
                check_row_count("file", TASKS[name], split, [count])
            assert ("allow_other_row_counts=true" in str(error.value)) == (split == "train" or split.startswith("dev"))


@pytest.mark.parametrize(
    ("name", "split", "rows", "hint"),
    [
        ("cola", "train", 8_550, "header"),
        ("cola", "dev", 1_042, "header"),
        ("mrpc", "train", 4_076, "they include the dev rows"),
        ("qnli", "train", 108_436, "version 1 of QNLI"),
        ("qnli", "dev", 5_732, "version 1 of QNLI"),
        ("qnli", "test", 5_740, "version 1 of QNLI"),
        ("rte", "dev", 0, "file: no rows"),
        ("follows", "dev", 0, "file: no rows"),
    ],
)
def test_known_wrong_row_counts_are_explained(name, split, rows, hint):
    with pytest.raises(InputError, match=hint):
        check_row_count("file", TASKS[name], split, [rows])


@pytest.mark.parametrize(("split", "rows"), [("train", 363_870), ("dev", 40_431)])
def test_both_releases_of_qqp_are_official(split, rows):
    check_row_count("file", TASKS["qqp"], split, [rows])
    with pytest.raises(InputError, match=f"has {OFFICIAL_ROWS['qqp'][split]:,} or {rows:,};"):
        check_row_count("file", TASKS["qqp"], split, [5])


@pytest.mark.parametrize(
    ("metric", "hint"), [("accurcy", "did you mean 'accuracy'"), ("bleu", "it has score, f1, accuracy"), ("f1", None)]
)
def test_an_unknown_metric_is_refused_with_a_suggestion(metric, hint):
    if hint is None:
        TASKS["mrpc"].check_metric(metric)
    else:
        with pytest.raises(InputError, match=f"metric: '{metric}' is not a metric of mrpc; {hint}"):
            TASKS["mrpc"].check_metric(metric)


OWN = FineTuneTask(
    name="grades",
    title="Grades",
    metrics={"pearson": "dev_old", "spearman": "dev_new"},
    score_range=(-2.0, 2.0),
    columns=("review",),
    label="grade",
    dev=("dev_old", "dev_new"),
    folders=("grades",),
)


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, OWN.name, OWN)
    for split, grades in (("train", (-2.0, 0.5, 2.0)), ("dev_old", (-1.0, 1.5, 0.0)), ("dev_new", (2.0, -2.0, 0.0))):
        rows = [f"{grade}\ta good city {row}" for row, grade in enumerate(grades)]
        write_lines(tmp_path / "Grades" / f"{split}.tsv", ["grade\treview", *rows])
    return tmp_path


def test_a_new_task_is_one_row_of_the_table(own_task):
    assert find_tasks(str(own_task), [OWN.name]) == ([OWN.name], [])
    data = load_task(str(own_task), OWN.name)
    labels = {name: rows.labels for name, rows in data.dev.items()}
    assert data.train.labels.tolist() == [-2.0, 0.5, 2.0]
    assert {name: values.tolist() for name, values in labels.items()} == {
        "dev_old": [-1.0, 1.5, 0.0],
        "dev_new": [2.0, -2.0, 0.0],
    }
    assert majority_scores(OWN, data.train.labels, labels) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}
    outputs = {"dev_old": np.array([[-9.0], [9.0], [0.4]]), "dev_new": np.array([[-1.0], [1.0], [0.0]])}
    scores = task_scores(OWN, outputs, labels)
    assert scores["spearman"] == pytest.approx(-1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef([-1.0, 1.5, 0.0], [-2.0, 2.0, 0.4])[0, 1])  # clipped
    write_dev_predictions(str(own_task / predictions_file(OWN.name, 3)), OWN, outputs, labels)
    (stored,) = read_seed_predictions(str(own_task), OWN.name, [3])
    assert read_seed_predictions(str(own_task), OWN.name, [3, 4]) == []
    assert {name: values.tolist() for name, values in stored.predictions.items()} == {
        "dev_old": [-2.0, 2.0, 0.4],
        "dev_new": [-1.0, 1.0, 0.0],
    }
    draws = resample(OWN, [[stored]], 0.0, rng=np.random.default_rng(1), resamples=20)
    assert np.isfinite(draws.models[0]).all()


@pytest.mark.parametrize(("label", "message"), [("2.5", "from -2 to 2"), ("good", "'good'")])
def test_a_label_outside_the_range_of_a_new_task_is_refused(own_task, label, message):
    write_lines(own_task / "Grades" / "train.tsv", ["grade\treview", f"{label}\ta city"])
    with pytest.raises(InputError, match=message):
        load_task(str(own_task), OWN.name)
