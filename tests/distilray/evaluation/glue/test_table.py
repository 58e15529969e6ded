"""Scores over several seeds, and their table."""

import io
import math

import pytest
from rich.console import Console

from distilray.config.glue import GLUE_TASKS
from distilray.evaluation.glue.table import PUBLISHED, glue_table, macro_score, summarize_seeds


def rows(task, metric, *values):
    return [{"task": task, "metric": metric, "value": value} for value in values]


def scores(task, **values):
    """Content of `scores.json` for a task and a missing one, with a majority of 0.5."""
    summary = summarize_seeds([row for metric, seeds in values.items() for row in rows(task, metric, *seeds)])
    return {
        "model_hash": "0123456789abcdef",
        "tasks": [task, "qnli"],
        "missing": ["qnli"],
        "summary": summary,
        "rows": [],
        "majority": {task: dict.fromkeys(values, 0.5)},
        "remarks": {"rte": ["trained on 100 of 2,490 rows"]},
    }


def shown(*contents):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(glue_table(*contents))
    return console.export_text()


def assert_line(text, *parts):
    assert any(all(part in line for part in parts) for line in text.splitlines()), parts


def test_a_summary_has_the_median_the_mean_and_the_spread_of_the_seeds():
    summary = summarize_seeds([*rows("rte", "score", 0.5, 0.7, 0.9, 0.6), *rows("rte", "accuracy", 0.5)])["rte"]
    expected = {"median": 0.65, "mean": 0.675, "min": 0.5, "max": 0.9, "std": 0.17078251, "seeds": 4}
    assert summary["score"] == pytest.approx(expected)
    assert (summary["accuracy"]["std"], summary["accuracy"]["seeds"]) == (0.0, 1)


def test_the_macro_score_is_the_mean_of_the_median_scores_of_glue():
    seeds = [*rows("rte", "score", 0.5, 0.6, 0.9), *rows("cola", "score", 0.2), *rows("follows", "score", 1)]
    assert macro_score(summarize_seeds(seeds)) == (pytest.approx(0.4), 2)
    assert math.isnan(macro_score({})[0])


def test_the_published_scores_have_the_published_means():
    # Facts B.5: 79.5 and 77.0, the 97% of the paper.
    means = {name: sum(row.values()) / len(row) for name, row in PUBLISHED.items()}
    assert means["BERT base"] == pytest.approx(79.5, abs=0.06)
    assert means["DistilBERT"] == pytest.approx(77.0, abs=0.06)
    assert sorted(PUBLISHED["DistilBERT"]) == sorted(GLUE_TASKS)


def test_a_task_with_two_metrics_has_a_line_for_each_and_one_for_their_mean():
    text = shown(scores("mrpc", f1=[0.88], accuracy=[0.82], score=[0.85]))
    assert_line(text, "mrpc", "88.0", "87.5")
    assert_line(text, "accuracy", "82.0")
    assert_line(text, "score", "85.0")


def test_the_table_names_model_seeds_remarks_and_missing_tasks():
    text = shown(scores("rte", accuracy=[0.55, 0.61], score=[0.55, 0.61]))
    assert_line(text, "rte", "58.0", "55.0 to 61.0", "50.0", "+8.0", "trained on 100 of 2,490 rows")
    assert_line(text, "qnli", "missing")
    assert "0123456789ab" in text
    assert "macro score 58.0 over 1 of 9 tasks" in text
    assert "less than 3 standard errors above" in text  # added to runs of earlier versions
    assert "kept" not in text
    assert "%  " not in text


def test_the_kept_share_is_that_of_the_medians():
    student, teacher = (
        scores("rte", accuracy=[0.5, 0.6, 0.9], score=[0.6]),
        scores("rte", accuracy=[0.75], score=[0.75]),
    )
    text = shown(student, teacher)
    # 0.6 of 0.75, and 0.1 of 0.25 above the majority
    assert_line(text, "accuracy", "80.0%", "40.0%")
    assert "no interval without dev predictions" in text
