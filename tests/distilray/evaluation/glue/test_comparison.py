"""Share of a teacher's score that a student keeps, with intervals, and the tasks that are included."""

import json
import math
import statistics

import numpy as np
import pytest

from distilray.config.glue import GLUE_TASKS
from distilray.evaluation.glue.comparison import (
    Comparison,
    compare_scores,
    find_comparison,
    have_same_rows,
    official_dev_rows,
    resample,
    score_intervals,
    task_score,
)
from distilray.evaluation.glue.table import published_scores
from distilray.finetuning.dev_predictions import DevPredictions
from distilray.finetuning.metrics import task_scores
from distilray.finetuning.tasks import TASKS

MAJORITY = {"cola": 0.0, "sst2": 0.509, "rte": 0.527, "follows": 0.5}
# The scores of docs/reproduction.md.
TEACHER = {"cola": 0.276, "sst2": 0.852, "rte": 0.552}
STUDENT = {"cola": 0.139, "sst2": 0.825, "rte": 0.574}


def scores(medians, **changes):
    """The keys of `scores.json` that earlier versions wrote and that are read."""
    summary = {task: {"score": {"median": value}} for task, value in medians.items()}
    return {"summary": summary, "majority": {task: {"score": MAJORITY[task]} for task in medians}, **changes}


def test_a_student_that_always_answers_the_majority_keeps_nothing_above_chance():
    found = compare_scores(scores({task: MAJORITY[task] for task in TEACHER}), scores(TEACHER))
    assert found.all.raw == pytest.approx(0.617, abs=5e-4)
    assert found.all.above_chance == 0.0
    assert found.mean.above_chance == 0.0
    assert [kept.above_chance for kept in found.tasks.values()] == [0.0, 0.0, 0.0]


def test_the_documented_student_keeps_78_per_cent_and_74_without_the_task_at_chance():
    found = compare_scores(scores(STUDENT), scores(TEACHER))
    assert (found.all.raw, found.all.above_chance) == pytest.approx((0.915, 0.78), abs=5e-4)
    assert (found.mean.raw, found.mean.above_chance) == pytest.approx((0.855, 0.735), abs=5e-4)
    assert found.counted == ["cola", "sst2"]
    assert list(found.left_out) == ["rte"]
    assert "3 standard errors" in found.left_out["rte"]


def test_the_papers_student_keeps_86_per_cent_of_the_same_tasks():
    tasks = list(TEACHER)
    found = compare_scores(published_scores("DistilBERT", tasks), published_scores("BERT base", tasks))
    assert (found.mean.raw, found.mean.above_chance) == pytest.approx((0.928, 0.862), abs=5e-4)
    assert not found.left_out


def test_of_the_papers_nine_tasks_the_one_at_chance_is_left_out():
    found = compare_scores(published_scores("DistilBERT", GLUE_TASKS), published_scores("BERT base", GLUE_TASKS))
    assert list(found.left_out) == ["wnli"]


@pytest.mark.parametrize(("score", "is_above"), [(0.6155, False), (0.6165, True)])
def test_a_score_is_above_chance_from_three_standard_errors_over_the_dev_rows(score, is_above):
    # 0.527 + 3 sqrt(p (1 - p) / 277): 0.6147 at the lower one, 0.6146 at the higher.
    found = task_score(scores({"rte": score + 0.0}), "rte")
    assert found.error == pytest.approx(math.sqrt(score * (1 - score) / 277))
    assert task_score(scores({"rte": score}, dev_rows={"rte": {"dev": 270}}), "rte").is_above_chance is is_above


def test_the_rows_of_the_run_count_before_the_official_ones():
    assert task_score(scores({"rte": 0.6}, dev_rows={"rte": {"dev": 24}}), "rte").error == pytest.approx(0.1)


def test_without_a_known_number_of_rows_a_task_is_left_out_with_that_reason():
    found = compare_scores(scores({"follows": 0.9}), scores({"follows": 0.9}))
    assert found.left_out == {"follows": "unknown number of dev rows"}
    assert found.mean is None
    assert official_dev_rows("qqp") == {"dev": 40_430}


def test_a_teacher_without_a_score_leaves_no_share():
    found = compare_scores(scores({"cola": 0.1}), scores({"cola": 0.0}))
    assert (found.tasks["cola"].raw, found.tasks["cola"].above_chance) == (None, None)
    assert found.summary.startswith("has no GLUE task in common with the teacher on which the teacher is above chance")


def test_runs_on_different_tasks_are_not_compared():
    found = compare_scores(scores({"cola": 0.5}), scores({"sst2": 0.9}))
    assert (found.mean, found.all, found.left_out) == (None, None, {})
    assert found.summary == "has no GLUE task in common with the teacher on which the teacher is above chance"


def dev_predictions(name, *, accuracy, seed, rows=600):
    """Predictions that are correct for a share of the rows, with fixed labels."""
    task = TASKS[name]
    drawn, own = np.random.default_rng(0), np.random.default_rng(seed)
    labels, predictions = {}, {}
    for split in task.dev:
        if task.is_regression:
            labels[split] = drawn.integers(0, 6, rows).astype(float)
            predictions[split] = (labels[split] + own.normal(size=rows) / accuracy).clip(0, 5)
        else:
            labels[split] = drawn.integers(0, task.num_outputs, rows).astype(float)
            wrong = (labels[split] + 1) % task.num_outputs
            predictions[split] = np.where(own.random(rows) < accuracy, labels[split], wrong)
    return DevPredictions(labels, predictions)


def score_of(name, found):
    """Compute the metric with the functions that score a run."""
    task = TASKS[name]
    outputs = {split: np.eye(task.num_outputs)[each.astype(int)] for split, each in found.predictions.items()}
    return task_scores(task, outputs, found.labels)["score"]


@pytest.mark.parametrize("name", ["rte", "mnli"])
def test_resampled_scores_spread_like_those_of_drawn_rows_and_seeds(name):
    model = [dev_predictions(name, accuracy=0.8, seed=seed, rows=150) for seed in (1, 2, 3)]
    found = resample(TASKS[name], [model], 1.0, rng=np.random.default_rng(1), resamples=4_000).models[0]
    right = np.array([[one.predictions[split] == one.labels[split] for split in TASKS[name].dev] for one in model])
    rng, expected = np.random.default_rng(2), []
    for _ in range(4_000):
        by_split = [right[:, number, rng.integers(150, size=150)].mean(axis=1) for number in range(right.shape[1])]
        expected.append(np.median(np.mean(by_split, axis=0)[rng.integers(3, size=3)]))
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.003)
    assert np.std(found) == pytest.approx(np.std(expected), rel=0.08)


def test_equal_predictions_keep_all_in_every_resample():
    model = [dev_predictions("rte", accuracy=0.8, seed=1)]
    draws = resample(TASKS["rte"], [model, model], 1.0, rng=np.random.default_rng(1))
    one = scores({"rte": score_of("rte", model[0])}, dev_rows={"rte": {"dev": 600}})
    found = compare_scores(one, one, {"rte": draws})
    assert (found.mean.raw_interval, found.mean.above_chance_interval) == ((1.0, 1.0), (1.0, 1.0))


def compared(teacher, student):
    """Two models on CoLA and RTE, with intervals."""
    rng = np.random.default_rng(1)
    models = {
        task: [[dev_predictions(task, accuracy=each, seed=seed) for seed in seeds] for each, seeds in both]
        for task, both in (("cola", ((teacher, (1, 2)), (student, (3, 4)))), ("rte", ((0.52, (5,)), (0.52, (6,)))))
    }
    draws = {task: resample(TASKS[task], both, 0.0, rng=rng) for task, both in models.items()}
    medians = [
        {task: statistics.median(score_of(task, one) for one in both[number]) for task, both in models.items()}
        for number in (0, 1)
    ]
    rows = {task: {"dev": 600} for task in models}
    return compare_scores(scores(medians[1], dev_rows=rows), scores(medians[0], dev_rows=rows), draws)


def test_intervals_hold_the_shares_and_that_above_a_baseline_of_chance_has_none():
    found = compared(0.9, 0.8)
    cola = found.tasks["cola"]
    assert cola.raw_interval[0] < cola.raw < cola.raw_interval[1]
    assert cola.above_chance_interval == cola.raw_interval  # the majority has no Matthews' correlation
    assert found.left_out.keys() == {"rte"}
    assert found.tasks["rte"].raw_interval is not None
    assert found.tasks["rte"].above_chance_interval is None
    assert found.mean.raw_interval == cola.raw_interval
    assert found.all.above_chance_interval is None


def test_a_comparison_is_the_same_after_a_file():
    found = compared(0.9, 0.8)
    values = json.loads(json.dumps(found.to_json()))
    assert json.loads(json.dumps(Comparison.from_json(values).to_json())) == values
    assert find_comparison({"kept": values}, None).mean.raw == found.mean.raw
    assert find_comparison({}, None) is None


def test_predictions_on_other_rows_are_told_apart():
    one = dev_predictions("rte", accuracy=0.8, seed=1)
    other = DevPredictions({"dev": 1 - one.labels["dev"]}, one.predictions)
    assert have_same_rows([[one], [dev_predictions("rte", accuracy=0.6, seed=2)]])
    assert not have_same_rows([[one], [other]])
    assert not have_same_rows([[one], [dev_predictions("rte", accuracy=0.8, seed=1, rows=599)]])


def test_the_interval_of_a_perfect_accuracy_has_a_width():
    model = [dev_predictions("rte", accuracy=1.0, seed=1, rows=20)]
    draws = resample(TASKS["rte"], [model], 0.0, rng=np.random.default_rng(1), resamples=100)
    low, high = score_intervals("rte", 1.0, draws, {"dev": 20})["score"]
    assert (low, high) == pytest.approx((1 - 0.1611, 1.0), abs=1e-4)  # Wilson


def test_every_task_can_be_resampled():
    for name in TASKS:
        models = [[dev_predictions(name, accuracy=0.8, seed=1, rows=30)]]
        found = resample(TASKS[name], models, 0.0, rng=np.random.default_rng(1), resamples=10)
        assert np.isfinite(found.models[0]).all()
        assert np.isfinite(found.majority).all()
