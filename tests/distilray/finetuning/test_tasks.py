from typing import get_args

import pytest

from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.finetuning.tasks import TASKS
from tests.distilray.finetuning.small_glue import FOLDERS, OFFICIAL_ROWS, labels_of


def test_every_task_of_the_recipes_is_in_the_table() -> None:
    assert set(TASKS) == set(get_args(TaskName))
    assert all(TASKS[name].name == name for name in TASKS)


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_the_official_rows_are_accepted(name: str) -> None:
    task = TASKS[name]
    assert {split: counts[0] for split, counts in task.rows.items()} == OFFICIAL_ROWS[name]
    assert set(task.rows) == {"train", *task.dev, *task.test}


def test_both_releases_of_qqp_are_accepted() -> None:
    assert TASKS["qqp"].rows["train"] == (363_846, 363_870)
    assert TASKS["qqp"].rows["dev"] == (40_430, 40_431)


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
    assert not follows.rows
    assert not follows.test
