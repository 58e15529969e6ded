"""The leaderboard's metrics of the outputs of a model, by scikit-learn and scipy."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from distilray.config.glue import METRICS, SCORE
from distilray.evaluation.glue.examples import HIGHEST_SCORE
from distilray.evaluation.glue.tasks import GlueTask

Array = NDArray[Any]
# By its name in METRICS: the number of the dev set that it is taken on, and how, from labels and predictions.
_FUNCTIONS: Mapping[str, tuple[int, Callable[[Array, Array], float]]] = {
    "accuracy": (0, metrics.accuracy_score),
    "accuracy_m": (0, metrics.accuracy_score),
    "accuracy_mm": (1, metrics.accuracy_score),
    "f1": (0, lambda labels, found: metrics.f1_score(labels, found, zero_division=0.0)),
    "matthews": (0, metrics.matthews_corrcoef),
    "pearson": (0, lambda labels, found: _correlation(stats.pearsonr, labels, found)),
    "spearman": (0, lambda labels, found: _correlation(stats.spearmanr, labels, found)),
}


def task_scores(task: GlueTask, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> dict[str, float]:
    """Every metric of a task, and `score`, their mean; all from -1 or 0 to 1.

    F1 is that of class 1. Matthews' and the other correlations of constant predictions count as 0.

    Args:
        task: the task.
        outputs: (rows, num_outputs) of each dev set.
        labels: (rows,) of each dev set.
    """
    found = {}
    for name in METRICS[task.name]:
        number, function = _FUNCTIONS[name]
        split = task.dev[number]
        found[name] = float(function(labels[split], predictions(task, outputs[split])))
    return {**found, SCORE: float(np.mean(list(found.values())))}


def majority_scores(task: GlueTask, train_labels: Array, dev_labels: Mapping[str, Array]) -> dict[str, float]:
    """`task_scores` of one answer for every row: the most frequent class of the training rows, or their mean score."""
    if task.is_regression:
        answer = np.array([train_labels.mean()])
    else:
        answer = np.eye(task.num_outputs)[np.bincount(train_labels, minlength=task.num_outputs).argmax()]
    outputs = {name: np.tile(answer, (len(labels), 1)) for name, labels in dev_labels.items()}
    return task_scores(task, outputs, dev_labels)


def predictions(task: GlueTask, outputs: Array) -> Array:
    """(rows,) class ids, or scores clipped to 0..5, of outputs (rows, num_outputs).

    Raises:
        RuntimeError: an output is not finite; the training diverged.
    """
    if not np.isfinite(outputs).all():
        raise RuntimeError(f"{task.title}: the model gives outputs that are not finite; lower learning_rate")
    return outputs[:, 0].clip(0.0, HIGHEST_SCORE) if task.is_regression else outputs.argmax(axis=1)


def _correlation(function: Callable[[Array, Array], Any], labels: Array, found: Array) -> float:
    if np.ptp(labels) == 0 or np.ptp(found) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(function(labels, found).statistic)
