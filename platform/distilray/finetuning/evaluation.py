"""The scores that a fine-tuning reaches as it goes on. Nothing here needs torch: searches read them too."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """Scores on the dev sets.

    Attributes:
        number: from 1.
        step: finished optimiser steps.
        epoch: the same in epochs.
        scores: metrics of the task, and their mean as `score`.
        train_loss: mean over the rows that were trained on since the evaluation before.
        seconds: since the start, without the time between an interruption and going on.
    """

    number: int
    step: int
    epoch: float
    scores: Mapping[str, float]
    train_loss: float
    seconds: float


@dataclass(frozen=True)
class FineTuned:
    """How a fine-tuning went.

    Attributes:
        best: the evaluation whose weights are kept; the earlier one of equals.
        planned: evaluations if nothing ends it early.
        ended: `complete`; `patience`, without a better score for too long; `stopped`, by who was reported to; `time`.
    """

    best: Evaluation
    evaluations: list[Evaluation]
    planned: int
    ended: str
