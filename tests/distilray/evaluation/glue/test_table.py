"""Scores of several seeds, and the table beside the literature."""

import io
import math

import pytest
from rich.console import Console

from distilray.config.glue import GLUE_TASKS
from distilray.evaluation.glue.table import PUBLISHED, glue_table, macro_score, summarize_seeds


def rows(task, metric, *values):
    return [{"task": task, "metric": metric, "value": value} for value in values]


def scores(**summary):
    return {
        "model_hash": "0123456789abcdef",
        "tasks": [*summary, "qnli"],
        "missing": ["qnli"],
        "summary": {task: summarize_seeds(found)[task] for task, found in summary.items()},
        "rows": [],
        "majority": {task: {row["metric"]: 0.5 for row in found} for task, found in summary.items()},
        "remarks": {"rte": ["trained on 100 of 2,490 rows"]},
    }


def shown(table):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_summary_has_the_median_the_mean_and_the_spread_of_the_seeds():
    found = summarize_seeds(rows("rte", "score", 0.5, 0.7, 0.9, 0.6))["rte"]["score"]
    assert found == pytest.approx(
        {"median": 0.65, "mean": 0.675, "min": 0.5, "max": 0.9, "std": 0.17078251, "seeds": 4}
    )


def test_one_seed_has_no_deviation():
    assert summarize_seeds(rows("rte", "score", 0.5))["rte"]["score"]["std"] == 0.0


def test_the_macro_score_is_the_mean_of_the_medians_of_glue_only():
    summary = summarize_seeds(
        [*rows("rte", "score", 0.5, 0.6, 0.9), *rows("cola", "score", 0.2), *rows("follows", "score", 1)]
    )
    assert macro_score(summary) == (pytest.approx(0.4), 2)
    assert math.isnan(macro_score({})[0])


def test_the_macro_scores_of_the_literature_are_those_of_its_rows():
    # Facts B.5: 79.5 and 77.0, the 97% of the paper.
    means = {name: sum(row.values()) / len(row) for name, row in PUBLISHED.items()}
    assert means["BERT base"] == pytest.approx(79.5, abs=0.06)
    assert means["DistilBERT"] == pytest.approx(77.0, abs=0.06)
    assert set(PUBLISHED["DistilBERT"]) == set(GLUE_TASKS)


def test_a_task_with_two_metrics_has_a_line_for_each_and_one_for_their_mean():
    found = [*rows("mrpc", "f1", 0.88), *rows("mrpc", "accuracy", 0.82), *rows("mrpc", "score", 0.85)]
    text = shown(glue_table(scores(mrpc=found)))
    assert [line for line in text.splitlines() if "88.0" in line and "mrpc" in line and "87.5" in line]
    assert [line for line in text.splitlines() if "82.0" in line and "accuracy" in line]
    assert [line for line in text.splitlines() if "85.0" in line and "score" in line]


def test_the_table_tells_what_is_missing_and_what_a_score_was_trained_on():
    found = [*rows("rte", "accuracy", 0.55, 0.6), *rows("rte", "score", 0.55, 0.6)]
    text = shown(glue_table(scores(rte=found)))
    assert "trained on 100 of 2,490 rows" in text
    assert [line for line in text.splitlines() if "qnli" in line and "missing" in line]
    assert "0123456789ab" in text
    assert "over 1 of 9 tasks" in text


def test_what_is_kept_is_that_of_the_medians_raw_and_above_chance():
    student = scores(rte=[*rows("rte", "accuracy", 0.5, 0.6, 0.9), *rows("rte", "score", 0.6)])
    teacher = scores(rte=[*rows("rte", "accuracy", 0.75), *rows("rte", "score", 0.75)])
    text = shown(glue_table(student, teacher))
    (line,) = [line for line in text.splitlines() if "accuracy" in line]
    assert "80.0%" in line  # 0.6 of 0.75
    assert "40.0%" in line  # 0.1 of 0.25 above the majority
    assert "no interval without dev predictions" in text


def test_a_table_without_a_teacher_speaks_of_no_share():
    text = shown(glue_table(scores(rte=[*rows("rte", "accuracy", 0.9), *rows("rte", "score", 0.9)])))
    assert "kept" not in text
    assert "%" not in text
    assert "+40.0" in text


def test_a_model_at_chance_is_named_even_in_a_run_of_an_earlier_version():
    text = shown(glue_table(scores(rte=[*rows("rte", "accuracy", 0.58), *rows("rte", "score", 0.58)])))
    assert "3 standard errors" in text
