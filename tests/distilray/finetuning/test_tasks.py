from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.errors import InputError
from distilray.evaluation.glue.comparison import resample
from distilray.finetuning.classifier import load_classifier
from distilray.finetuning.dev_predictions import read_dev_predictions, write_dev_predictions
from distilray.finetuning.features import encode_task
from distilray.finetuning.files import find_tasks, load_task
from distilray.finetuning.metrics import majority_scores, task_scores
from distilray.finetuning.tasks import TASKS, FineTuneTask
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.glue import FOLDERS, OFFICIAL_ROWS, labels_of, write_lines
from tests.tiny.tasks import settings


def test_every_task_of_the_recipes_is_in_the_table() -> None:
    assert set(TASKS) == set(get_args(TaskName))
    assert all(TASKS[name].name == name for name in TASKS)


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_the_official_rows_are_accepted(name: str) -> None:
    task = TASKS[name]
    assert {split: counts[0] for split, counts in task.row_counts.items()} == OFFICIAL_ROWS[name]
    assert set(task.row_counts) == {"train", *task.dev, *task.test}


def test_both_releases_of_qqp_are_accepted() -> None:
    assert TASKS["qqp"].row_counts["train"] == (363_846, 363_870)
    assert TASKS["qqp"].row_counts["dev"] == (40_430, 40_431)


def test_class_ids_are_those_of_the_hub() -> None:
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["qnli"].labels == TASKS["rte"].labels == ("entailment", "not_entailment")
    for name in ("cola", "sst2", "mrpc", "qqp", "wnli"):
        assert TASKS[name].labels == tuple(labels_of(name)) == ("0", "1")


def test_only_sts_b_has_scores() -> None:
    assert [name for name in TASKS if TASKS[name].is_regression] == ["stsb"]
    assert TASKS["stsb"].num_outputs == 1
    assert {name: TASKS[name].num_outputs for name in ("cola", "mnli", "rte", "follows")} == {
        "cola": 2,
        "mnli": 3,
        "rte": 2,
        "follows": 2,
    }


def test_official_and_hub_folder_names_are_known_and_no_two_tasks_share_one() -> None:
    for name, title in FOLDERS.items():
        assert {title.lower(), name} <= set(TASKS[name].folders)
    names = [folder for task in TASKS.values() for folder in task.folders]
    assert len(set(names)) == len(names)


def test_the_made_up_task_reads_like_rte_and_has_no_official_rows() -> None:
    follows, rte = TASKS["follows"], TASKS["rte"]
    assert (follows.columns, follows.label, follows.dev) == (rte.columns, rte.label, rte.dev)
    assert not follows.row_counts
    assert not follows.test


OWN = FineTuneTask(
    name="grades",  # type: ignore[arg-type]
    title="Grades",
    metrics={"pearson": "dev_old", "spearman": "dev_new"},
    score_range=(-2.0, 2.0),
    columns=("review",),
    label="grade",
    dev=("dev_old", "dev_new"),
    folders=("grades",),
)


@pytest.fixture
def own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(TASKS, OWN.name, OWN)
    for split, grades in (("train", (-2.0, 0.5, 2.0)), ("dev_old", (-1.0, 1.5)), ("dev_new", (2.0, -2.0, 0.0))):
        lines = [f"{grade}\ta good city {row}" for row, grade in enumerate(grades)]
        write_lines(tmp_path / "Grades" / f"{split}.tsv", ["grade\treview", *lines])
    return str(tmp_path)


def test_a_row_is_all_that_another_task_needs(own_rows: str, bert_dir: str) -> None:
    assert find_tasks(own_rows, [OWN.name]) == ([OWN.name], [])
    data = load_task(own_rows, OWN.name)
    features = encode_task(data, read_tokenizer(bert_dir), settings(), seed=1)
    assert features.train.labels is not None
    assert features.train.labels.tolist() == [-2.0, 0.5, 2.0]
    assert {name: labels.tolist() for name, labels in features.dev_labels.items()} == {
        "dev_old": [-1.0, 1.5],
        "dev_new": [2.0, -2.0, 0.0],
    }
    assert load_classifier(bert_dir, OWN, seed=1).config.num_labels == 1
    majority = majority_scores(OWN, features.train.labels, features.dev_labels)
    assert majority == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


def test_predictions_of_another_task_are_scored_stored_and_resampled(own_rows: str, tmp_path: Path) -> None:
    labels = {"dev_old": np.array([-1.0, 1.5, 0.0]), "dev_new": np.array([2.0, -2.0, 0.0])}
    outputs = {"dev_old": np.array([[-9.0], [9.0], [0.4]]), "dev_new": np.array([[-1.0], [1.0], [0.0]])}
    scores = task_scores(OWN, outputs, labels)
    assert scores["spearman"] == pytest.approx(-1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef([-1.0, 1.5, 0.0], [-2.0, 2.0, 0.4])[0, 1])  # clipped
    file = str(tmp_path / "predictions.parquet")
    write_dev_predictions(file, OWN, outputs, labels)
    draws = resample(OWN, [[read_dev_predictions(file)]], 0.0, rng=np.random.default_rng(1), resamples=20)
    assert np.isfinite(draws.models[0]).all()


@pytest.mark.parametrize(("label", "message"), [("2.5", "from -2 to 2"), ("good", "'good'")])
def test_a_label_outside_the_range_of_another_task_is_refused(own_rows: str, label: str, message: str) -> None:
    write_lines(Path(own_rows) / "Grades" / "train.tsv", ["grade\treview", f"{label}\ta city"])
    with pytest.raises(InputError, match=message):
        load_task(own_rows, OWN.name)
