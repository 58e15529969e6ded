import warnings

import numpy as np
import pytest

from distilray.finetuning.metrics import majority_answer, majority_scores, predictions, resampled_metric, task_scores
from distilray.finetuning.tasks import TASKS

# 4 true positives, 1 false positive, 2 false negatives, 3 true negatives
LABELS, ANSWERS = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 1, 0, 0, 0]
F1, MATTHEWS = 2 * 4 / (2 * 4 + 1 + 2), (4 * 3 - 1 * 2) / np.sqrt(5 * 6 * 4 * 5)
ACCURACY_ONLY = {"accuracy": 0.7, "score": 0.7}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def outputs_of(classes, count=2):
    return np.eye(count, dtype=np.float32)[classes]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, ACCURACY_ONLY) for name in ("sst2", "qnli", "rte", "wnli", "follows")),
        *((name, {"f1": F1, "accuracy": 0.7, "score": (F1 + 0.7) / 2}) for name in ("mrpc", "qqp")),
        ("cola", {"matthews": MATTHEWS, "score": MATTHEWS}),
    ],
)
def test_scores_of_classes_follow_their_formulas(name, expected):
    scores = task_scores(TASKS[name], {"dev": outputs_of(ANSWERS)}, {"dev": np.array(LABELS)})
    assert scores == pytest.approx(expected)


def test_each_accuracy_of_mnli_belongs_to_its_own_dev_set():
    outputs = {"dev_matched": outputs_of([0, 1, 2, 2], 3), "dev_mismatched": outputs_of([0, 0], 3)}
    labels = {"dev_matched": np.array([0, 1, 2, 0]), "dev_mismatched": np.array([1, 0])}
    assert task_scores(TASKS["mnli"], outputs, labels) == {"accuracy_m": 0.75, "accuracy_mm": 0.5, "score": 0.625}


def test_correlations_follow_their_formulas():
    labels, outputs = np.array([0.0, 1.0, 2.0, 5.0], np.float32), np.array([[0.5], [1.5], [1.0], [3.0]], np.float32)
    pearson = np.corrcoef(labels, outputs[:, 0])[0, 1]
    scores = task_scores(TASKS["stsb"], {"dev": outputs}, {"dev": labels})
    assert scores == pytest.approx({"pearson": pearson, "spearman": 0.8, "score": (pearson + 0.8) / 2})


def test_predictions_are_the_most_probable_class_or_the_clipped_score():
    assert predictions(TASKS["mnli"], np.array([[0.1, 0.3, 0.2], [5.0, -1.0, 0.0]])).tolist() == [1, 0]
    outputs = np.array([[-3.0], [6.0], [90.0]])
    assert predictions(TASKS["stsb"], outputs).tolist() == [0.0, 5.0, 5.0]
    scores = task_scores(TASKS["stsb"], {"dev": outputs}, {"dev": np.array([0.0, 5.0, 5.0])})
    assert scores["score"] == pytest.approx(1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["cola", "stsb"])
def test_outputs_that_are_not_finite_are_refused(name, value):
    outputs = np.zeros((3, TASKS[name].num_outputs))
    outputs[1, 0] = value
    with pytest.raises(RuntimeError, match=rf"{TASKS[name].title}: .*outputs that are not finite; lower learning_rate"):
        predictions(TASKS[name], outputs)


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_constant_predictions_have_scores_and_no_warnings(name, constant):
    task = TASKS[name]
    outputs = outputs_of(np.full(6, constant), task.num_outputs) if task.labels else np.full((6, 1), constant / 3)
    labels = np.array([0, 1, 0, 1, 1, 1]) if task.labels else np.linspace(0, 5, 6)
    scores = task_scores(task, dict.fromkeys(task.dev, outputs), dict.fromkeys(task.dev, labels))
    assert list(scores) == [*task.metrics, "score"]
    assert all(np.isfinite(value) for value in scores.values())
    assert all(scores.get(metric, 0.0) == 0.0 for metric in ("matthews", "pearson", "spearman"))


def test_nearly_constant_predictions_give_no_warning():
    outputs = 2.0 + np.array([[0.0], [1e-15], [0.0]])
    assert np.isfinite(task_scores(TASKS["stsb"], {"dev": outputs}, {"dev": np.arange(3.0)})["pearson"])


def test_the_majority_answer_comes_from_the_training_rows():
    assert majority_answer(TASKS["mnli"], np.array([2, 0, 2])) == 2
    assert majority_answer(TASKS["stsb"], np.array([1.0, 4.0])) == 2.5
    labels = {"dev": np.array([0, 0, 1, 0])}
    assert majority_scores(TASKS["wnli"], np.array([1, 0, 0]), labels)["accuracy"] == 0.75
    assert majority_scores(TASKS["wnli"], np.array([1, 1, 0]), labels)["accuracy"] == 0.25
    scores = majority_scores(TASKS["stsb"], np.array([1.0, 4.0]), {"dev": np.array([1.0, 2.0, 5.0])})
    assert scores == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


@pytest.mark.parametrize("name", ["sst2", "cola", "mrpc", "mnli", "stsb"])
def test_metrics_of_resamples_equal_those_of_the_repeated_rows(name):
    task, rng = TASKS[name], np.random.default_rng(3)
    if task.is_regression:
        labels = rng.integers(0, 6, 40).astype(float)  # with ties
        outputs = (labels + rng.normal(size=40)).round().reshape(-1, 1)
    else:
        labels = rng.integers(0, task.num_outputs, 40)
        outputs = outputs_of(np.where(rng.random(40) < 0.6, labels, 0), task.num_outputs)

    def scores(times):
        rows = np.repeat(np.arange(40), times)
        return task_scores(task, dict.fromkeys(task.dev, outputs[rows]), dict.fromkeys(task.dev, labels[rows]))

    counts = rng.multinomial(40, np.full(40, 1 / 40), size=6)
    for metric in task.metrics:
        resampled = resampled_metric(metric, counts, labels, predictions(task, outputs))
        assert resampled == pytest.approx([scores(times)[metric] for times in counts], abs=1e-12)


@pytest.mark.parametrize("metric", ["matthews", "f1", "pearson", "spearman"])
def test_constant_predictions_score_zero_in_every_resample(metric):
    counts = np.array([[1, 1, 1], [3, 0, 0]])
    assert resampled_metric(metric, counts, np.array([0.0, 1.0, 1.0]), np.zeros(3)).tolist() == [0.0, 0.0]
