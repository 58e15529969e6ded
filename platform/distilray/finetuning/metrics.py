"""Metrics of the GLUE leaderboard, computed with scikit-learn and scipy, and a fast version for resampled rows."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from distilray.config.glue import SCORE
from distilray.finetuning.tasks import FineTuneTask

Array = NDArray[Any]
_MIN_STD = 1e-12  # smaller standard deviations are rounding errors
_CHUNK_COUNTS = 1 << 16  # counts that are processed together, so that they stay in the CPU cache
# Functions of labels and predictions.
_FUNCTIONS: Mapping[str, Callable[[Array, Array], float]] = {
    "accuracy": metrics.accuracy_score,
    "accuracy_m": metrics.accuracy_score,
    "accuracy_mm": metrics.accuracy_score,
    "f1": lambda labels, answers: metrics.f1_score(labels, answers, zero_division=0.0),
    "matthews": metrics.matthews_corrcoef,
    "pearson": lambda labels, answers: _correlation(stats.pearsonr, labels, answers),
    "spearman": lambda labels, answers: _correlation(stats.spearmanr, labels, answers),
}


def task_scores(task: FineTuneTask, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> dict[str, float]:
    """Return all metrics of a task, and their mean as `score`; each is at most 1.

    F1 refers to class 1. Correlations with constant predictions are 0.

    Args:
        outputs: (rows, num_outputs) for each dev set.
        labels: (rows,) for each dev set.
    """
    predicted = {split: predictions(task, outputs[split]) for split in task.metrics.values()}
    scores = {name: float(_FUNCTIONS[name](labels[split], predicted[split])) for name, split in task.metrics.items()}
    return {**scores, SCORE: float(np.mean(list(scores.values())))}


def majority_answer(task: FineTuneTask, train_labels: Array) -> float:
    """Return the most frequent class of the training rows, or their mean score."""
    if task.is_regression:
        return float(train_labels.mean())
    return int(np.bincount(train_labels, minlength=task.num_outputs).argmax())


def majority_scores(task: FineTuneTask, train_labels: Array, dev_labels: Mapping[str, Array]) -> dict[str, float]:
    """Return the scores of predicting the majority answer for every row."""
    answer = majority_answer(task, train_labels)
    outputs = np.array([answer]) if task.is_regression else np.eye(task.num_outputs)[int(answer)]
    return task_scores(task, {name: np.tile(outputs, (len(rows), 1)) for name, rows in dev_labels.items()}, dev_labels)


def resampled_metric(metric: str, counts: Array, labels: Array, answers: Array) -> Array:
    """Return a metric for each resample, (resamples,), equal to that of `task_scores` on the repeated rows.

    Args:
        metric: metric of a task.
        counts: (resamples, rows) number of times that each row was drawn.
        labels: (rows,).
        answers: (rows,) class ids or scores.
    """
    chunks = np.array_split(counts.astype(np.float64), -(-counts.size // _CHUNK_COUNTS))
    return np.concatenate([_resampled_chunk(metric, times, labels, answers) for times in chunks])


def _resampled_chunk(metric: str, times: Array, labels: Array, answers: Array) -> Array:
    if metric.startswith("accuracy"):
        return times @ (labels == answers) / times.sum(axis=1)
    if metric == "spearman":
        return _resampled_pearson(times, _resampled_ranks(times, labels), _resampled_ranks(times, answers))
    if metric == "f1":
        hits, positives = times @ ((labels == 1) & (answers == 1)), times @ (labels == 1) + times @ (answers == 1)
        return np.divide(2 * hits, positives, out=np.zeros(len(times)), where=positives > 0)
    # Matthews' correlation is Pearson's of two binary variables.
    return _resampled_pearson(times, labels[None].astype(np.float64), answers[None].astype(np.float64))


def predictions(task: FineTuneTask, outputs: Array) -> Array:
    """Convert outputs (rows, num_outputs) to class ids, or to scores clipped to the range of the task, (rows,).

    Raises:
        RuntimeError: an output is not finite because training diverged.
    """
    if not np.isfinite(outputs).all():
        raise RuntimeError(f"{task.title}: the model produces outputs that are not finite; lower learning_rate")
    return outputs[:, 0].clip(*task.label_range) if task.is_regression else outputs.argmax(axis=1)


def _correlation(function: Callable[[Array, Array], Any], labels: Array, answers: Array) -> float:
    if np.ptp(labels) == 0 or np.ptp(answers) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(function(labels, answers).statistic)


def _resampled_pearson(times: Array, first: Array, second: Array) -> Array:
    """Return the correlation of two variables, (1, rows) or (resamples, rows), in each resample; 0 for constants."""
    total = times.sum(axis=1, keepdims=True)
    first, second = (each - (times * each).sum(axis=1, keepdims=True) / total for each in (first, second))
    weighted = times * first
    scale = np.sqrt((weighted * first).sum(axis=1) * (times * second**2).sum(axis=1))
    return np.divide(
        (weighted * second).sum(axis=1), scale, out=np.zeros(len(times)), where=scale > _MIN_STD * total[:, 0]
    )


def _resampled_ranks(times: Array, values: Array) -> Array:
    """Return the mean rank of each row among the drawn rows, (resamples, rows)."""
    distinct, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(distinct)))
    ties = np.add.reduceat(times[:, order], starts, axis=1)
    ranks = ties.cumsum(axis=1) - (ties - 1) / 2
    return ranks[:, inverse]
