"""Labeled rows of one split of a task, and checks that apply to every file format."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError
from distilray.finetuning.tasks import FineTuneTask

AGAIN = "get the official file again"


@dataclass(frozen=True)
class Examples:
    """Rows of a split.

    Attributes:
        first: first text of each row, or its only one.
        second: second text of each row; None for tasks with a single text.
        labels: (rows,) int64 class ids, or float32 scores for a regression; None for a test set.
        remark: property of the file that should be reported with scores on these rows.
    """

    first: list[str]
    second: list[str] | None
    labels: NDArray[Any] | None
    remark: str = ""

    def __len__(self) -> int:
        return len(self.first)


def check_row_count(where: str, task: FineTuneTask, split: str, counts: Sequence[int]) -> None:
    """Check that a split has the official number of rows.

    Args:
        where: file name for error messages.
        split: key of `FineTuneTask.row_counts`.
        counts: number of usable rows, followed by other ways of counting them. One of them must be official.

    Raises:
        InputError: the split is empty, or none of the counts is official.
    """
    official = task.row_counts.get(split, ())
    if not counts[0]:
        raise InputError(f"{where}: no rows; {AGAIN}")
    if not official or any(count in official for count in counts):
        return
    hint = task.row_count_hints.get((split, counts[0]), AGAIN)
    if split not in task.test:  # the leaderboard only accepts predictions for the official test rows
        hint += ", or set allow_other_row_counts=true for another release or your own rows"
    wanted = " or ".join(f"{count:,}" for count in official)
    raise InputError(f"{where}: {counts[0]:,} rows, but {task.title} has {wanted}; {hint}")


def parse_label(task: FineTuneTask, word: str) -> float:
    """Return the class id of a label, or the score of a regression.

    Raises:
        ValueError: the task has no such label; the message lists its labels.
    """
    if not task.is_regression:
        if word not in task.labels:
            raise ValueError(f"label {word[:40]!r} is none of {', '.join(task.labels)}")
        return task.labels.index(word)
    low, high = task.label_range
    try:
        score = float(word)
    except ValueError:
        score = math.nan
    if not low <= score <= high:
        raise ValueError(f"score {word[:40]!r} is not a number from {low:g} to {high:g}")
    return score


def check_scores(where: str, task: FineTuneTask, labels: Sequence[float]) -> None:
    """Check that scores use the official scale. Some releases of STS-B scale them to [0, 1].

    Raises:
        InputError: no score is above 1, although the scale of the task ends higher.
    """
    low, high = task.label_range
    if task.is_regression and max(labels) <= 1.0 < high:
        scores = f"{task.title} has {low:g} to {high:g}; multiply the scores by {high:g}"
        raise InputError(f"{where}: no score above 1, and {scores}, or {AGAIN}")


def label_array(task: FineTuneTask, labels: Sequence[float]) -> NDArray[Any]:
    """Return class ids as int64, or scores as float32."""
    return np.asarray(labels, np.float32 if task.is_regression else np.int64)
