"""Intervals of the scores of a GLUE run, and of what it keeps of a teacher's, from the dev predictions of both."""

from collections.abc import Mapping, Sequence
from typing import Any

from distilray.config.glue import SCORE, TaskName
from distilray.evaluation.glue.comparison import (
    Comparison,
    ResampledScores,
    compare_scores,
    resample,
    same_rows,
    score_intervals,
)
from distilray.evaluation.glue.table import task_remarks
from distilray.finetuning.dev_predictions import DevPredictions, read_dev_predictions, read_seeds
from distilray.finetuning.files import TaskData
from distilray.finetuning.fine_tune_run import FineTuneRunResult
from distilray.finetuning.metrics import majority_answer
from distilray.finetuning.tasks import TASKS
from distilray.runtime.seeding import generator

_SEED_USE = 302  # sets the draws apart from other uses of a seed

Data = Mapping[TaskName, TaskData]
Results = Mapping[tuple[TaskName, int], FineTuneRunResult]


def add_intervals(scores: dict[str, Any], data: Data, results: Results, *, seed: int) -> None:
    """Add the intervals of each task to a `scores.json`, and a remark to the tasks on which the model is at chance."""
    scores["intervals"] = {}
    for task, each in data.items():
        draws = _draws(each, [_predictions(results, task)], seed)
        median = scores["summary"][task][SCORE]["median"]
        scores["intervals"][task] = score_intervals(task, median, draws, scores["dev_rows"][task])
        scores["remarks"][task] = task_remarks(scores, task)


def compare_with_teacher(
    scores: Mapping[str, Any], teacher: Mapping[str, Any], teacher_dir: str, data: Data, results: Results, *, seed: int
) -> Comparison:
    """Compare a run with that of its teacher. Tasks get intervals where the teacher has predictions on the same rows.

    Args:
        scores: `scores.json` of the run.
        teacher: the same of the teacher, whose run folder is `teacher_dir`.

    Raises:
        InputError: a file of the teacher is not what its run has written.
    """
    draws = {}
    for task, each in data.items():
        seeds = dict.fromkeys(row["seed"] for row in teacher["rows"] if row["task"] == task)
        models = [read_seeds(teacher_dir, task, seeds), _predictions(results, task)]
        if all(models) and same_rows(models):
            draws[task] = _draws(each, models, seed)
    return compare_scores(scores, teacher, draws)


def _predictions(results: Results, task: TaskName) -> list[DevPredictions]:
    return [read_dev_predictions(result.dev_predictions) for (name, _), result in results.items() if name == task]


def _draws(data: TaskData, models: Sequence[Sequence[DevPredictions]], seed: int) -> ResampledScores:
    """Resample a task with draws of its own."""
    assert data.train.labels is not None
    rng = generator(seed, _SEED_USE, list(TASKS).index(data.task.name))
    return resample(data.task, models, majority_answer(data.task, data.train.labels), rng=rng)
