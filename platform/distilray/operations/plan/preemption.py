"""How long a run takes on machines that may be taken away."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError

_MOST_PREEMPTIONS = 5_000  # of a run
_MOST_FAILURES = 3.0  # preemptions expected between two checkpoints


@dataclass(frozen=True)
class Preemption:
    """Machines are taken away at random moments, independently (a Poisson process).

    Attributes:
        per_machine_hour: how often.
        restart_s: from a preemption to the first new step.
        has_notice: the run saves before the machine goes; else it repeats the steps since its checkpoint.
    """

    per_machine_hour: float
    restart_s: float
    has_notice: bool


@dataclass(frozen=True)
class RunTimes:
    """Simulated runs: (trials,) each. `lost_s` is what was repeated."""

    seconds: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    lost_s: NDArray[np.float64]


def run_times(
    work_s: float, interval_s: float, *, machines: int, preemption: Preemption, trials: int, rng: np.random.Generator
) -> RunTimes:
    """Times of whole runs.

    Args:
        work_s: of the run when nothing happens.
        interval_s: of it, between two checkpoints.

    Raises:
        InputError: machines go so often that the run would not end.
    """
    seconds, counts, lost = np.full(trials, work_s), np.zeros(trials, np.int64), np.zeros(trials)
    per_second = preemption.per_machine_hour * machines / 3600
    if per_second == 0:
        return RunTimes(seconds, counts, lost)
    _refuse_endless(work_s * per_second, 0.0 if preemption.has_notice else interval_s * per_second)
    for trial in range(trials):
        done = 0.0
        while (gap := rng.exponential(1 / per_second)) < work_s - done:
            reached = done + gap
            kept = reached if preemption.has_notice else math.floor(reached / interval_s) * interval_s
            seconds[trial] += preemption.restart_s + reached - kept
            lost[trial] += reached - kept
            counts[trial] += 1
            done = kept
    return RunTimes(seconds, counts, lost)


def _refuse_endless(expected: float, between: float) -> None:
    if expected > _MOST_PREEMPTIONS or between > _MOST_FAILURES:
        raise InputError(
            f"disturbance.preemptions_per_machine_hour: {expected:,.0f} preemptions of a run, {between:,.1f} between "
            "two checkpoints, so that it would not end; lower it, or rhythm.checkpoint_every_steps of distill"
        )
