"""Confidence intervals of GLUE scores and of the share of a teacher's score, from dev predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from distilray.config.glue import SCORE, TaskName
from distilray.evaluation.glue.comparison import (
    Comparison,
    ResampledScores,
    compare_scores,
    have_same_rows,
    resample,
    score_intervals,
)
from distilray.evaluation.glue.table import task_remarks
from distilray.finetuning.dev_predictions import DevPredictions, read_dev_predictions, read_seed_predictions
from distilray.finetuning.files import TaskData
from distilray.finetuning.fine_tune_run import Results
from distilray.finetuning.metrics import majority_answer
from distilray.finetuning.tasks import TASKS
from distilray.runtime.seeding import generator

_SEED_STREAM = 302  # separates these random numbers from other uses of the seed

Data = Mapping[TaskName, TaskData]


def add_intervals(scores: dict[str, Any], data: Data, results: Results, *, seed: int) -> None:
    """Add intervals to the content of `scores.json`, and a remark to each task on which the model is at chance."""
    scores["intervals"] = {}
    for task, task_data in data.items():
        resampled = _resample(task_data, [_predictions(results, task)], seed)
        median = scores["summary"][task][SCORE]["median"]
        scores["intervals"][task] = score_intervals(task, median, resampled, scores["dev_rows"][task])
        scores["remarks"][task] = task_remarks(scores, task)


def compare_with_teacher(
    scores: Mapping[str, Any], teacher: Mapping[str, Any], teacher_dir: str, data: Data, results: Results, *, seed: int
) -> Comparison:
    """Compare a run with its teacher's; intervals need the teacher's predictions on the same rows.

    Args:
        scores: content of `scores.json` of the run.
        teacher: content of `scores.json` in `teacher_dir`, the teacher's run folder.

    Raises:
        InputError: a file of the teacher's run has changed.
    """
    resampled = {}
    for task, task_data in data.items():
        seeds = dict.fromkeys(row["seed"] for row in teacher["rows"] if row["task"] == task)
        models = [read_seed_predictions(teacher_dir, task, seeds), _predictions(results, task)]
        if all(models) and have_same_rows(models):
            resampled[task] = _resample(task_data, models, seed)
    return compare_scores(scores, teacher, resampled)


def _predictions(results: Results, task: TaskName) -> list[DevPredictions]:
    return [read_dev_predictions(result.dev_predictions) for (name, _), result in results.items() if name == task]


def _resample(data: TaskData, models: Sequence[Sequence[DevPredictions]], seed: int) -> ResampledScores:
    assert data.train.labels is not None
    rng = generator(seed, _SEED_STREAM, list(TASKS).index(data.task.name))  # independent draws for each task
    return resample(data.task, models, majority_answer(data.task, data.train.labels), rng=rng)
