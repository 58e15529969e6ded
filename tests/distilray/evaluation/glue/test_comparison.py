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
    score_error,
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
    """The keys of `scores.json` that all versions contain."""
    summary = {task: {"score": {"median": value}} for task, value in medians.items()}
    return {"summary": summary, "majority": {task: {"score": MAJORITY[task]} for task in medians}, **changes}


@pytest.mark.parametrize(
    ("student", "teacher", "mean", "overall", "left_out"),
    [
        (scores({task: MAJORITY[task] for task in TEACHER}), scores(TEACHER), (0.451, 0.0), (0.617, 0.0), ["rte"]),
        (scores(STUDENT), scores(TEACHER), (0.855, 0.735), (0.915, 0.78), ["rte"]),
        (published_scores("DistilBERT", TEACHER), published_scores("BERT base", TEACHER), (0.928, 0.862), None, []),
        (published_scores("DistilBERT", GLUE_TASKS), published_scores("BERT base", GLUE_TASKS), None, None, ["wnli"]),
    ],
    ids=["majority answers", "docs/reproduction.md", "three published tasks", "all published tasks"],
)
def test_the_kept_share_excludes_tasks_on_which_the_teacher_is_at_chance(student, teacher, mean, overall, left_out):
    comparison = compare_scores(student, teacher)
    for kept, expected in ((comparison.mean, mean), (comparison.all, overall)):
        if expected is not None:
            assert (kept.raw, kept.above_chance) == pytest.approx(expected, abs=5e-4)
    assert list(comparison.left_out) == left_out
    assert all("3 standard errors" in reason for reason in comparison.left_out.values())
    assert comparison.counted == [task for task in student["summary"] if task not in left_out]
    assert all(f"left out: {task}" in comparison.summary for task in left_out)


@pytest.mark.parametrize(("score", "is_above"), [(0.6155, False), (0.6165, True)])
def test_a_score_is_above_chance_from_three_standard_errors_over_the_dev_rows(score, is_above):
    # 0.527 + 3 sqrt(p (1 - p) / 270) is 0.6158 for both.
    scored = task_score(scores({"rte": score}, dev_rows={"rte": {"dev": 270}}), "rte")
    assert scored.error == pytest.approx(math.sqrt(score * (1 - score) / 270))
    assert scored.is_above_chance is is_above
    official = task_score(scores({"rte": score}), "rte")
    assert official.error == pytest.approx(math.sqrt(score * (1 - score) / 277))


def test_the_error_of_two_metrics_is_the_mean_of_their_errors():
    assert score_error("rte", "score", 0.6, {"dev": 24}) == pytest.approx(0.1)
    errors = [math.sqrt(0.6 * 0.4 / rows) for rows in (24, 96)]
    rows = {"dev_matched": 24, "dev_mismatched": 96}
    assert score_error("mnli", "score", 0.6, rows) == pytest.approx(statistics.fmean(errors))
    assert score_error("mnli", "accuracy_mm", 0.6, rows) == pytest.approx(errors[1])
    assert official_dev_rows("qqp") == {"dev": 40_430}


@pytest.mark.parametrize(
    ("student", "teacher", "left_out"),
    [
        ({"follows": 0.9}, {"follows": 0.9}, {"follows": "unknown number of dev rows"}),
        ({"cola": 0.1}, {"cola": 0.0}, {"cola": "teacher less than 3 standard errors above the majority baseline"}),
        ({"cola": 0.5}, {"sst2": 0.9}, {}),
    ],
    ids=["unknown rows", "teacher without a score", "no common task"],
)
def test_without_a_usable_task_there_is_no_share(student, teacher, left_out):
    comparison = compare_scores(scores(student), scores(teacher))
    assert (comparison.mean, comparison.left_out) == (None, left_out)
    assert comparison.summary.startswith("has no GLUE task in common with the teacher on which the teacher is above")
    if "cola" in left_out:
        assert (comparison.tasks["cola"].raw, comparison.tasks["cola"].above_chance) == (None, None)


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


def score_of(name, predictions):
    task = TASKS[name]
    outputs = {split: np.eye(task.num_outputs)[each.astype(int)] for split, each in predictions.predictions.items()}
    return task_scores(task, outputs, predictions.labels)["score"]


@pytest.mark.parametrize("name", ["rte", "mnli"])
def test_resampled_scores_spread_like_those_of_drawn_rows_and_seeds(name):
    model = [dev_predictions(name, accuracy=0.8, seed=seed, rows=150) for seed in (1, 2, 3)]
    resampled = resample(TASKS[name], [model], 1.0, rng=np.random.default_rng(1), resamples=3_000).models[0]
    right = np.array([[seed.predictions[split] == seed.labels[split] for split in TASKS[name].dev] for seed in model])
    rng, expected = np.random.default_rng(2), []
    for _ in range(3_000):
        by_split = [right[:, number, rng.integers(150, size=150)].mean(axis=1) for number in range(right.shape[1])]
        expected.append(np.median(np.mean(by_split, axis=0)[rng.integers(3, size=3)]))
    assert np.mean(resampled) == pytest.approx(np.mean(expected), abs=0.003)
    assert np.std(resampled) == pytest.approx(np.std(expected), rel=0.08)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_can_be_resampled(name):
    models = [[dev_predictions(name, accuracy=0.8, seed=1, rows=30)]]
    resampled = resample(TASKS[name], models, 0.0, rng=np.random.default_rng(1), resamples=10)
    assert np.isfinite([resampled.majority, resampled.models[0]]).all()


@pytest.fixture(scope="module")
def comparison():
    """Two models on CoLA, and on RTE with a teacher at chance, with intervals."""
    rng, rows = np.random.default_rng(1), {"cola": {"dev": 600}, "rte": {"dev": 600}}
    accuracies = {"cola": ((0.9, (1, 2)), (0.8, (3, 4))), "rte": ((0.52, (5,)), (0.52, (6,)))}
    models = {
        task: [[dev_predictions(task, accuracy=accuracy, seed=seed) for seed in seeds] for accuracy, seeds in both]
        for task, both in accuracies.items()
    }
    draws = {task: resample(TASKS[task], both, 0.0, rng=rng) for task, both in models.items()}
    teacher, student = (
        {task: statistics.median(score_of(task, seed) for seed in both[index]) for task, both in models.items()}
        for index in (0, 1)
    )
    return compare_scores(scores(student, dev_rows=rows), scores(teacher, dev_rows=rows), draws)


def test_intervals_contain_the_shares_but_a_teacher_at_chance_has_none_above_chance(comparison):
    cola, rte = comparison.tasks["cola"], comparison.tasks["rte"]
    assert cola.raw_interval[0] < cola.raw < cola.raw_interval[1]
    assert cola.above_chance_interval == cola.raw_interval  # the Matthews correlation of the majority is 0
    assert list(comparison.left_out) == ["rte"]
    assert rte.raw_interval is not None
    assert rte.above_chance_interval is None
    assert comparison.mean.raw_interval == cola.raw_interval
    assert comparison.all.above_chance_interval is None


def test_a_comparison_is_preserved_in_json(comparison):
    values = json.loads(json.dumps(comparison.to_json()))
    assert json.loads(json.dumps(Comparison.from_json(values).to_json())) == values
    assert find_comparison({"kept": values}, scores(TEACHER)).mean.raw == comparison.mean.raw
    assert find_comparison(scores(STUDENT), scores(TEACHER)) == compare_scores(scores(STUDENT), scores(TEACHER))
    assert find_comparison({}, None) is None


def test_equal_predictions_keep_everything_in_every_resample():
    model = [dev_predictions("rte", accuracy=0.8, seed=1)]
    draws = resample(TASKS["rte"], [model, model], 1.0, rng=np.random.default_rng(1))
    equal = scores({"rte": score_of("rte", model[0])}, dev_rows={"rte": {"dev": 600}})
    mean = compare_scores(equal, equal, {"rte": draws}).mean
    assert (mean.raw_interval, mean.above_chance_interval) == ((1.0, 1.0), (1.0, 1.0))


def test_predictions_on_other_rows_are_detected():
    first = dev_predictions("rte", accuracy=0.8, seed=1)
    other_labels = DevPredictions({"dev": 1 - first.labels["dev"]}, first.predictions)
    assert have_same_rows([[first], [dev_predictions("rte", accuracy=0.6, seed=2)]])
    assert not have_same_rows([[first], [other_labels]])
    assert not have_same_rows([[first], [dev_predictions("rte", accuracy=0.8, seed=1, rows=599)]])


def test_the_interval_of_a_perfect_accuracy_has_a_width():
    model = [dev_predictions("rte", accuracy=1.0, seed=1, rows=20)]
    draws = resample(TASKS["rte"], [model], 0.0, rng=np.random.default_rng(1), resamples=100)
    interval = score_intervals("rte", 1.0, draws, {"dev": 20})["score"]
    assert interval == pytest.approx((1 - 0.1611, 1.0), abs=1e-4)  # Wilson
