import warnings

import numpy as np
import pytest

from distilray.finetuning.metrics import (
    majority_answer,
    majority_scores,
    predictions,
    resampled_metric,
    task_scores,
)
from distilray.finetuning.tasks import TASKS


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def outputs_of(classes, count=2):
    return np.eye(count, dtype=np.float32)[classes]


def scores(name, classes, labels):
    task = TASKS[name]
    return task_scores(task, {"dev": outputs_of(classes, task.num_outputs)}, {"dev": np.array(labels)})


# 4 true positives, 1 false positive, 2 false negatives, 3 true negatives
LABELS, FOUND = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("name", ["sst2", "qnli", "rte", "wnli", "follows"])
def test_accuracy_is_the_share_of_right_classes(name):
    assert scores(name, FOUND, LABELS) == {"accuracy": 0.7, "score": 0.7}


def test_matthews_is_as_by_its_formula():
    expected = (4 * 3 - 1 * 2) / np.sqrt(5 * 6 * 4 * 5)
    assert scores("cola", FOUND, LABELS) == pytest.approx({"matthews": expected, "score": expected})


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_f1_is_that_of_class_one_and_the_score_is_the_mean(name):
    f1 = 2 * 4 / (2 * 4 + 1 + 2)
    assert scores(name, FOUND, LABELS) == pytest.approx({"f1": f1, "accuracy": 0.7, "score": (f1 + 0.7) / 2})


def test_each_accuracy_of_mnli_is_of_its_own_dev_set():
    outputs = {"dev_matched": outputs_of([0, 1, 2, 2], 3), "dev_mismatched": outputs_of([0, 0], 3)}
    labels = {"dev_matched": np.array([0, 1, 2, 0]), "dev_mismatched": np.array([1, 0])}
    found = task_scores(TASKS["mnli"], outputs, labels)
    assert found == {"accuracy_m": 0.75, "accuracy_mm": 0.5, "score": 0.625}


def test_correlations_are_as_by_their_formulas():
    labels, outputs = np.array([0.0, 1.0, 2.0, 5.0], np.float32), np.array([[0.5], [1.5], [1.0], [3.0]], np.float32)
    found = task_scores(TASKS["stsb"], {"dev": outputs}, {"dev": labels})
    pearson = np.corrcoef(labels, outputs[:, 0])[0, 1]
    assert found == pytest.approx({"pearson": pearson, "spearman": 0.8, "score": (pearson + 0.8) / 2})


def test_scores_are_taken_of_clipped_values():
    labels, outputs = np.array([0.0, 5.0, 5.0], np.float32), np.array([[-3.0], [6.0], [90.0]], np.float32)
    assert task_scores(TASKS["stsb"], {"dev": outputs}, {"dev": labels})["score"] == pytest.approx(1.0)
    assert predictions(TASKS["stsb"], outputs).tolist() == [0.0, 5.0, 5.0]


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_constant_predictions_have_scores_and_no_warnings(name, constant):
    task = TASKS[name]
    outputs = outputs_of(np.full(6, constant), task.num_outputs) if task.labels else np.full((6, 1), constant / 3)
    labels = np.array([0, 1, 0, 1, 1, 1]) if task.labels else np.linspace(0, 5, 6)
    found = task_scores(task, dict.fromkeys(task.dev, outputs), dict.fromkeys(task.dev, labels))
    assert list(found) == [*TASKS[name].metrics, "score"]
    assert all(np.isfinite(value) for value in found.values())
    for metric in ("matthews", "pearson", "spearman"):
        assert found.get(metric, 0.0) == 0.0


def test_nearly_constant_predictions_give_no_warning():
    outputs = 2.0 + np.array([[0.0], [1e-15], [0.0]])
    assert np.isfinite(task_scores(TASKS["stsb"], {"dev": outputs}, {"dev": np.arange(3.0)})["pearson"])


def test_the_majority_is_that_of_the_training_rows():
    labels = {"dev": np.array([0, 0, 1, 0])}
    assert majority_scores(TASKS["wnli"], np.array([1, 0, 0]), labels)["accuracy"] == 0.75
    assert majority_scores(TASKS["wnli"], np.array([1, 1, 0]), labels)["accuracy"] == 0.25


def test_the_mean_score_as_an_answer_has_a_score_of_zero():
    found = majority_scores(TASKS["stsb"], np.array([1.0, 4.0]), {"dev": np.array([1.0, 2.0, 5.0])})
    assert found == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


@pytest.mark.parametrize("name", ["sst2", "cola", "mrpc", "mnli", "stsb"])
def test_metrics_of_resamples_are_those_of_the_repeated_rows(name):
    task, rng = TASKS[name], np.random.default_rng(3)
    if task.is_regression:
        labels = rng.integers(0, 6, 40).astype(float)  # with ties
        outputs = (labels + rng.normal(size=40)).round().reshape(-1, 1)
    else:
        labels = rng.integers(0, task.num_outputs, 40)
        outputs = outputs_of(np.where(rng.random(40) < 0.6, labels, 0), task.num_outputs)
    answers = predictions(task, outputs)
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=6)
    for metric in TASKS[name].metrics:
        found = resampled_metric(metric, counts, labels, answers)
        expected = [
            task_scores(
                task,
                dict.fromkeys(task.dev, np.repeat(outputs, times, axis=0)),
                dict.fromkeys(task.dev, np.repeat(labels, times)),
            )[metric]
            for times in counts
        ]
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["matthews", "f1", "pearson", "spearman"])
def test_resampled_constant_predictions_have_a_score_of_nothing(metric):
    counts = np.array([[1, 1, 1], [3, 0, 0]])
    assert resampled_metric(metric, counts, np.array([0.0, 1.0, 1.0]), np.zeros(3)).tolist() == [0.0, 0.0]


def test_the_majority_answer_is_a_class_or_the_mean_score():
    assert majority_answer(TASKS["mnli"], np.array([2, 0, 2])) == 2
    assert majority_answer(TASKS["stsb"], np.array([1.0, 4.0])) == 2.5


def test_classes_are_those_of_the_highest_output():
    assert predictions(TASKS["mnli"], np.array([[0.1, 0.3, 0.2], [5.0, -1.0, 0.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["cola", "stsb"])
def test_outputs_that_are_not_finite_are_no_predictions(name, value):
    outputs = np.zeros((3, TASKS[name].num_outputs))
    outputs[1, 0] = value
    with pytest.raises(RuntimeError, match=r"outputs that are not finite"):
        predictions(TASKS[name], outputs)
