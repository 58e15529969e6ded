"""A trial as Ray Tune knows it. What it needs to train is imported by the process that trains, which takes seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distilray.config.glue import TaskConfig, TaskName, TrialConfig

EVALUATION, BEST = "evaluation", "best"  # keys of what a trial reports


@dataclass(frozen=True)
class Objective:
    """What all trials of a task share.

    Attributes:
        settings: of the task, where a trial says nothing else.
        trials_folder: holds a folder for each trial; path or URI.
        features: references to the tokenised task, by the `max_length` that it is cut at.
        stop_reason: why Ray Tune may stop a trial.
    """

    task: TaskName
    settings: TaskConfig
    model_dir: str
    trials_folder: str
    seed: int
    precision: str
    trial: TrialConfig
    features: Mapping[int, Any]
    stop_reason: str


def run_trial(config: Mapping[str, Any], *, objective: Objective) -> None:
    """A trial, as Ray Tune calls it."""
    from tuning.objective import try_values

    try_values(config, objective)
