"""The rows of one split of a task, and what is checked of them whatever files they come from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError
from distilray.finetuning.tasks import FineTuneTask

_AGAIN = "get the official file again"


@dataclass(frozen=True)
class Examples:
    """Rows of a split.

    Attributes:
        first: the text, or the first of two.
        second: the second text; None for a task of one text.
        labels: shape (rows,): int64 class ids, or float32 scores of a regression; None in a test set.
        remark: what a reader of scores on these rows must know of their file.
    """

    first: list[str]
    second: list[str] | None
    labels: NDArray[Any] | None
    remark: str = ""

    def __len__(self) -> int:
        return len(self.first)


def check_rows(where: str, task: FineTuneTask, split: str, counts: Sequence[int]) -> None:
    """Refuses a split that is not the official one by its number of rows.

    Args:
        where: the file.
        task: the task.
        split: as in `FineTuneTask.rows`.
        counts: the rows that are used first; then other ways to count them, of which one may be official.

    Raises:
        InputError: there is no row, or none of the counts is official.
    """
    official = task.rows.get(split, ())
    if not counts[0]:
        raise InputError(f"{where}: no row there; {_AGAIN}")
    if not official or any(count in official for count in counts):
        return
    hint = task.known_rows.get((split, counts[0]), _AGAIN)
    if split not in task.test:  # the leaderboard takes predictions for the official test rows alone
        hint += ", or set allow_other_row_counts=true for another release or rows of your own"
    wanted = " or ".join(f"{count:,}" for count in official)
    raise InputError(f"{where}: {counts[0]:,} rows where {task.title} has {wanted}; {hint}")


def read_label(task: FineTuneTask, word: str) -> float:
    """The class id of a label word, or the score of a regression.

    Raises:
        ValueError: no label of the task; the message tells which it has.
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
        raise ValueError(f"score {word[:40]!r} is no number from {low:g} to {high:g}")
    return score


def check_scores(where: str, task: FineTuneTask, labels: Sequence[float]) -> None:
    """Refuse scores that end at 1 where the task's end higher: other releases of STS-B have them.

    Raises:
        InputError: no score is above 1.
    """
    low, high = task.label_range
    if task.is_regression and max(labels) <= 1.0 < high:
        scores = f"{task.title} has {low:g} to {high:g}; multiply the scores by {high:g}"
        raise InputError(f"{where}: no score above 1, and {scores}, or {_AGAIN}")


def label_array(task: FineTuneTask, labels: Sequence[float]) -> NDArray[Any]:
    """Class ids as int64, scores as float32."""
    return np.asarray(labels, np.float32 if task.is_regression else np.int64)
