"""Comparison of GLUE scores with the majority baseline and with a teacher, with confidence intervals.

The score of a task is the median over seeds. Intervals come from a paired bootstrap: each resample draws dev rows, the
same ones for all models and the baseline, and then draws seeds of each model with replacement.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.finetuning.dev_predictions import DevPredictions
from distilray.finetuning.metrics import resampled_metric
from distilray.finetuning.tasks import TASKS, FineTuneTask
from distilray.statistics import (
    Array,
    Interval,
    draw_counts,
    is_above_chance,
    median_of_resampled_seeds,
    percentile_interval,
    retained_share,
    share_interval,
    standard_error,
)

RESAMPLES = 2000
AT_CHANCE = "less than 3 standard errors above the majority baseline"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class ResampledScores:
    """Scores of a task in all resamples; each array has shape (resamples,).

    Attributes:
        models: one array per model, in the order passed to `resample`.
    """

    majority: Array
    models: Sequence[Array]


@dataclass(frozen=True)
class TaskScore:
    """Score of a model on a task, from 0 (correlations: from -1) to 1.

    Attributes:
        error: standard error over the dev rows; nan if their number is unknown.
        interval: interval of the score; None for a run without dev predictions.
    """

    score: float
    majority: float
    error: float
    interval: Interval | None = None

    @property
    def above_majority(self) -> float:
        return self.score - self.majority

    @property
    def is_above_chance(self) -> bool:
        return is_above_chance(self.score, self.majority, self.error)


@dataclass(frozen=True)
class KeptShare:
    """Share of a teacher's score that a student keeps, on one task or on the mean of several.

    Attributes:
        raw: share of the score; None if the teacher's score is not positive.
        above_chance: share of the score above the majority baseline; None if the teacher is not above it.
        raw_interval, above_chance_interval: None without dev predictions of both models.
    """

    teacher: float
    student: float
    majority: float
    raw: float | None
    above_chance: float | None
    raw_interval: Sequence[float] | None = None
    above_chance_interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Comparison:
    """Comparison of a student with its teacher.

    Attributes:
        tasks: shares for the tasks on which both models were fine-tuned.
        left_out: tasks excluded from the mean, with the reason.
        mean: shares over the GLUE tasks that are not excluded; None if there are none.
        all: shares over all GLUE tasks, including excluded ones.
    """

    tasks: Mapping[TaskName, KeptShare]
    left_out: Mapping[TaskName, str]
    mean: KeptShare | None
    all: KeptShare | None

    @property
    def counted(self) -> list[TaskName]:
        return [task for task in self.tasks if task in GLUE_TASKS and task not in self.left_out]

    @property
    def summary(self) -> str:
        """The comparison in words, as the predicate of a sentence about the student."""
        reasons: dict[str, list[str]] = {}
        for task, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(task)
        left_out = "".join(f"; left out: {', '.join(tasks)} ({reason})" for reason, tasks in reasons.items())
        if self.mean is None or self.all is None:
            return f"has no GLUE task in common with the teacher on which the teacher is above chance{left_out}"
        summary = f"keeps {_shares(self.mean)} on {', '.join(self.counted)}{left_out}"
        if left_out:
            summary += f"; on all tasks {_shares(self.all)}"
        return summary + ("" if self.mean.raw_interval else "; no interval without dev predictions of both models")

    def to_json(self) -> dict[str, Any]:
        """Return the value of `kept` in `scores.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Values) -> "Comparison":
        """Create a comparison from the value of `kept` in `scores.json`."""
        mean, overall = (None if values[name] is None else KeptShare(**values[name]) for name in ("mean", "all"))
        return cls(
            {task: KeptShare(**kept) for task, kept in values["tasks"].items()}, values["left_out"], mean, overall
        )


def resample(
    task: FineTuneTask,
    models: Sequence[Sequence[DevPredictions]],
    majority_answer: float,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> ResampledScores:
    """Resample the scores of a task.

    Args:
        models: predictions of each model, one item per seed; all on the same dev rows.
        majority_answer: prediction of the baseline for every row.
    """
    runs = [predictions for model in models for predictions in model]
    by_metric = np.zeros((len(task.metrics), resamples, 1 + len(runs)))  # the baseline comes first
    for split in task.dev:
        labels = runs[0].labels[split]
        answers = [np.full(len(labels), majority_answer), *(run.predictions[split] for run in runs)]
        # Metrics depend only on how often each combination of label and answers occurs.
        columns, multiplicity = np.unique(np.stack([labels, *answers]), axis=1, return_counts=True)
        counts = draw_counts(rng, multiplicity, resamples)
        for number, (metric, metric_split) in enumerate(task.metrics.items()):
            if metric_split == split:
                scores = [resampled_metric(metric, counts, columns[0], answer) for answer in columns[1:]]
                by_metric[number] = np.stack(scores, axis=1)
    scores = by_metric.mean(axis=0)
    majority, *by_model = np.split(scores, np.cumsum([1, *map(len, models)])[:-1], axis=1)
    return ResampledScores(majority[:, 0], [median_of_resampled_seeds(by_seed, rng) for by_seed in by_model])


def have_same_rows(models: Iterable[Sequence[DevPredictions]]) -> bool:
    """Return True if the predictions of all models are on the same dev rows."""
    first, *others = [predictions for model in models for predictions in model]
    return all(
        other.labels.keys() == first.labels.keys()
        and all(np.array_equal(other.labels[split], first.labels[split]) for split in first.labels)
        for other in others
    )


def score_intervals(
    task: TaskName, score: float, resampled: ResampledScores, rows: Mapping[str, int]
) -> dict[str, Interval | None]:
    """Return the intervals of a score and of its difference to the majority baseline."""
    (own,) = resampled.models
    is_share = list(TASKS[task].metrics) == ["accuracy"]
    return {
        SCORE: share_interval(own, score, sum(rows.values())) if is_share else percentile_interval(own),
        "above_majority": percentile_interval(own - resampled.majority),
    }


def task_score(scores: Values, task: TaskName) -> TaskScore:
    """Return the score of a task from `scores.json`; files of earlier versions have no intervals."""
    score, majority = scores["summary"][task][SCORE]["median"], scores["majority"][task][SCORE]
    error = score_error(task, SCORE, score, scores.get("dev_rows", {}).get(task) or official_dev_rows(task))
    return TaskScore(score, majority, error, scores.get("intervals", {}).get(task, {}).get(SCORE))


def score_error(task: TaskName, metric: str, value: float, rows: Mapping[str, int]) -> float:
    """Return the standard error of a metric or of a task's score; nan if the number of dev rows is unknown.

    For a score over two metrics, this is the mean of their standard errors, an upper bound.

    Args:
        rows: number of rows of each dev set.
    """
    splits = TASKS[task].metrics
    counts = {name: rows.get(splits[name]) for name in (splits if metric == SCORE else (metric,))}
    return statistics.fmean(standard_error(name, value, count) if count else math.nan for name, count in counts.items())


def official_dev_rows(task: TaskName) -> dict[str, int]:
    return {split: min(TASKS[task].row_counts[split]) for split in TASKS[task].dev if split in TASKS[task].row_counts}


def compare_scores(
    student: Values, teacher: Values, resampled: Mapping[TaskName, ResampledScores] | None = None
) -> Comparison:
    """Compare the contents of two `scores.json` files.

    Args:
        resampled: resampled scores of teacher and student by task; other tasks get no intervals.
    """
    resampled = resampled or {}
    tasks: list[TaskName] = [task for task in student["summary"] if task in teacher["summary"]]
    pairs = {task: (task_score(teacher, task), task_score(student, task)) for task in tasks}
    left_out = {task: _exclusion_reason(scored) for task, (scored, _) in pairs.items() if not scored.is_above_chance}
    glue_tasks = [task for task in tasks if task in GLUE_TASKS]
    counted = [task for task in glue_tasks if task not in left_out]
    return Comparison(
        {task: _kept_share([task], pairs, resampled, is_counted=task not in left_out) for task in tasks},
        left_out,
        _kept_share(counted, pairs, resampled) if counted else None,
        _kept_share(glue_tasks, pairs, resampled, is_counted=counted == glue_tasks) if glue_tasks else None,
    )


def find_comparison(student: Values, teacher: Values | None) -> Comparison | None:
    """Return the comparison stored in `scores.json`, or else compare with `teacher`, without intervals."""
    if student.get("kept"):
        return Comparison.from_json(student["kept"])
    return None if teacher is None else compare_scores(student, teacher)


def format_percent(share: float | None, interval: Sequence[float] | None = None) -> str:
    """Format a share and its interval; return an empty string without a share."""
    if share is None:
        return ""
    return f"{share:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")


def _shares(kept: KeptShare) -> str:
    raw = format_percent(kept.raw, kept.raw_interval)
    above = format_percent(kept.above_chance, kept.above_chance_interval)
    return f"{raw or 'nothing'} of the teacher's mean score, {above or 'nothing'} above chance"


def _kept_share(
    tasks: Sequence[TaskName],
    pairs: Mapping[TaskName, tuple[TaskScore, TaskScore]],
    resampled: Mapping[TaskName, ResampledScores],
    *,
    is_counted: bool = True,
) -> KeptShare:
    """Return the shares for the mean over some tasks.

    Args:
        is_counted: whether the teacher is above chance on all tasks; if not, the share above chance gets no interval,
            because its denominator may be zero.
    """
    teacher_mean = statistics.fmean(pairs[task][0].score for task in tasks)
    student_mean = statistics.fmean(pairs[task][1].score for task in tasks)
    majority = statistics.fmean(pairs[task][1].majority for task in tasks)
    raw, above = (_without_nan(retained_share(student_mean, teacher_mean, base)) for base in (0.0, majority))
    raw_interval = above_interval = None
    if raw is not None and all(task in resampled for task in tasks):
        draws = [resampled[task] for task in tasks]
        chance = np.mean([draw.majority for draw in draws], axis=0)
        teacher, student = (np.mean([draw.models[index] for draw in draws], axis=0) for index in (0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            raw_interval = percentile_interval(student / teacher)
            if is_counted:
                above_interval = percentile_interval((student - chance) / (teacher - chance))
    return KeptShare(teacher_mean, student_mean, majority, raw, above, raw_interval, above_interval)


def _exclusion_reason(teacher: TaskScore) -> str:
    return "unknown number of dev rows" if math.isnan(teacher.error) else f"teacher {AT_CHANCE}"


def _without_nan(share: float) -> float | None:
    return None if math.isnan(share) else share
