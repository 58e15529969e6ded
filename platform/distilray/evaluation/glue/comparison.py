"""GLUE scores against the majority baseline and against a teacher's, with intervals.

The score of a task is the median over the seeds. Intervals are of a paired bootstrap: each resample draws dev rows, the
same for all models and the baseline, and for each model as many of its seeds.
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
    """Scores of a task in each resample, each of shape (resamples,).

    Attributes:
        models: in the order of the arguments of `resample`.
    """

    majority: Array
    models: Sequence[Array]


@dataclass(frozen=True)
class TaskScore:
    """A model's score on a task, from 0 or -1 to 1.

    Attributes:
        error: standard error over the dev rows; nan where their number is not known.
        interval, above_interval: of the score, and of its distance to the majority baseline; None in a run without
            dev predictions.
    """

    score: float
    majority: float
    error: float
    interval: Interval | None = None
    above_interval: Interval | None = None

    @property
    def above(self) -> float:
        """Score above the majority baseline."""
        return self.score - self.majority

    @property
    def is_above_chance(self) -> bool:
        """True if the score is at least three standard errors above the majority baseline."""
        return is_above_chance(self.score, self.majority, self.error)


@dataclass(frozen=True)
class KeptShare:
    """The share of a teacher's score that a student keeps, on a task or on the mean of several.

    Attributes:
        raw: of the whole score; None where the teacher has none.
        above_chance: of the score above the majority baseline; None where the teacher is not above it.
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
    """A student beside its teacher.

    Attributes:
        tasks: by task that both have been fine-tuned on.
        left_out: reasons why a task does not enter the mean.
        mean: over the other tasks of GLUE; None without any.
        all: over all tasks of GLUE, also those that are left out.
    """

    tasks: Mapping[TaskName, KeptShare]
    left_out: Mapping[TaskName, str]
    mean: KeptShare | None
    all: KeptShare | None

    @property
    def counted(self) -> list[TaskName]:
        """The tasks of the mean."""
        return [task for task in self.tasks if task in GLUE_TASKS and task not in self.left_out]

    @property
    def summary(self) -> str:
        """Shares of the mean that the student keeps, and the tasks, as the predicate of a sentence."""
        reasons: dict[str, list[str]] = {}
        for task, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(task)
        left_out = "".join(f"; left out: {', '.join(tasks)} ({reason})" for reason, tasks in reasons.items())
        if self.mean is None or self.all is None:
            return f"shares no task of GLUE with the teacher on which the teacher is above chance{left_out}"
        summary = f"keeps {_shares(self.mean)} on {', '.join(self.counted)}{left_out}"
        if left_out:
            summary += f"; on all tasks {_shares(self.all)}"
        return summary + ("" if self.mean.raw_interval else "; no interval without dev predictions of both models")

    def to_json(self) -> dict[str, Any]:
        """Return what `scores.json` holds of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Values) -> "Comparison":
        """Return the comparison that `scores.json` holds."""
        mean, every = (None if values[name] is None else KeptShare(**values[name]) for name in ("mean", "all"))
        return cls({task: KeptShare(**each) for task, each in values["tasks"].items()}, values["left_out"], mean, every)


def resample(
    task: FineTuneTask,
    models: Sequence[Sequence[DevPredictions]],
    majority_answer: float,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> ResampledScores:
    """Return resampled scores of a task.

    Args:
        models: for each model its predictions by seed; all on the same dev rows.
        majority_answer: the baseline's prediction for every row.
    """
    seeds = [one for model in models for one in model]
    by_metric = np.zeros((len(task.metrics), resamples, 1 + len(seeds)))
    for split in task.dev:
        labels = seeds[0].labels[split]
        answers = [np.full(len(labels), majority_answer), *(each.predictions[split] for each in seeds)]
        columns, multiplicity = np.unique(np.stack([labels, *answers]), axis=1, return_counts=True)
        counts = draw_counts(rng, multiplicity, resamples)
        for number, (metric, measured) in enumerate(task.metrics.items()):
            if measured == split:
                scores = [resampled_metric(metric, counts, columns[0], each) for each in columns[1:]]
                by_metric[number] = np.stack(scores, axis=1)
    scores = by_metric.mean(axis=0)
    majority, *of_models = np.split(scores, np.cumsum([1, *map(len, models)])[:-1], axis=1)
    return ResampledScores(majority[:, 0], [median_of_resampled_seeds(each, rng) for each in of_models])


def same_rows(models: Iterable[Sequence[DevPredictions]]) -> bool:
    """Return whether predictions of several models are on the same dev rows."""
    first, *others = [each for model in models for each in model]
    return all(
        each.labels.keys() == first.labels.keys()
        and all(np.array_equal(each.labels[split], first.labels[split]) for split in first.labels)
        for each in others
    )


def score_intervals(
    task: TaskName, score: float, draws: ResampledScores, rows: Mapping[str, int]
) -> dict[str, Interval | None]:
    """Return the intervals of a model's own score, and of its distance to the majority baseline."""
    (own,) = draws.models
    is_share = list(TASKS[task].metrics) == ["accuracy"]
    return {
        SCORE: share_interval(own, score, sum(rows.values())) if is_share else percentile_interval(own),
        "above_majority": percentile_interval(own - draws.majority),
    }


def task_score(scores: Values, task: TaskName) -> TaskScore:
    """Return the score of a task in a `scores.json`, also in one of an earlier version, which has no intervals."""
    score, majority = scores["summary"][task][SCORE]["median"], scores["majority"][task][SCORE]
    intervals = scores.get("intervals", {}).get(task, {})
    return TaskScore(
        score,
        majority,
        score_error(task, SCORE, score, scores.get("dev_rows", {}).get(task) or official_dev_rows(task)),
        intervals.get(SCORE),
        intervals.get("above_majority"),
    )


def score_error(task: TaskName, metric: str, value: float, rows: Mapping[str, int]) -> float:
    """Return the standard error of a metric, or of the score of a task; nan where the number of dev rows is not known.

    The standard error of a mean of two metrics is not more than the mean of theirs.

    Args:
        rows: by dev set.
    """
    splits = TASKS[task].metrics
    counts = {each: rows.get(splits[each]) for each in (splits if metric == SCORE else (metric,))}
    return statistics.fmean(standard_error(each, value, count) if count else math.nan for each, count in counts.items())


def official_dev_rows(task: TaskName) -> dict[str, int]:
    """Return the official number of rows by dev set; nothing for a task that has none."""
    return {split: min(TASKS[task].rows[split]) for split in TASKS[task].dev if split in TASKS[task].rows}


def compare_scores(
    student: Values, teacher: Values, draws: Mapping[TaskName, ResampledScores] | None = None
) -> Comparison:
    """Compare two `scores.json` by task.

    Args:
        draws: by task, of the models teacher and student; tasks without draws get no intervals.
    """
    draws = draws or {}
    tasks: list[TaskName] = [task for task in student["summary"] if task in teacher["summary"]]
    pairs = {task: (task_score(teacher, task), task_score(student, task)) for task in tasks}
    left_out = {task: _reason(theirs) for task, (theirs, _) in pairs.items() if not theirs.is_above_chance}
    of_glue = [task for task in tasks if task in GLUE_TASKS]
    counted = [task for task in of_glue if task not in left_out]
    return Comparison(
        {task: _kept([task], pairs, draws, is_counted=task not in left_out) for task in tasks},
        left_out,
        _kept(counted, pairs, draws) if counted else None,
        _kept(of_glue, pairs, draws, is_counted=not set(of_glue) & set(left_out)) if of_glue else None,
    )


def find_comparison(student: Values, teacher: Values | None) -> Comparison | None:
    """Return the comparison that a student's `scores.json` holds, or one with `teacher`, without intervals."""
    if student.get("kept"):
        return Comparison.from_json(student["kept"])
    return None if teacher is None else compare_scores(student, teacher)


def format_percent(share: float | None, interval: Sequence[float] | None = None) -> str:
    """Return a share with its interval; empty without a share."""
    if share is None:
        return ""
    return f"{share:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")


def _shares(kept: KeptShare) -> str:
    raw, above = (
        format_percent(kept.raw, kept.raw_interval),
        format_percent(kept.above_chance, kept.above_chance_interval),
    )
    return f"{raw or 'nothing'} of the teacher's mean score, {above or 'nothing'} above chance"


def _kept(
    tasks: Sequence[TaskName],
    pairs: Mapping[TaskName, tuple[TaskScore, TaskScore]],
    draws: Mapping[TaskName, ResampledScores],
    *,
    is_counted: bool = True,
) -> KeptShare:
    """Return the shares on the mean over some tasks.

    Args:
        is_counted: the teacher is above chance on all of them. Otherwise the share above chance divides by what may
            well be 0, and has no interval.
    """
    theirs = statistics.fmean(pairs[task][0].score for task in tasks)
    ours = statistics.fmean(pairs[task][1].score for task in tasks)
    majority = statistics.fmean(pairs[task][1].majority for task in tasks)
    raw, above = (_without_nan(retained_share(ours, theirs, base)) for base in (0.0, majority))
    raw_interval = above_interval = None
    if raw is not None and all(task in draws for task in tasks):
        chance, teacher, student = (
            np.mean([draw(draws[task]) for task in tasks], axis=0)
            for draw in (lambda one: one.majority, lambda one: one.models[0], lambda one: one.models[1])
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            raw_interval = percentile_interval(student / teacher)
            if is_counted:
                above_interval = percentile_interval((student - chance) / (teacher - chance))
    return KeptShare(theirs, ours, majority, raw, above, raw_interval, above_interval)


def _reason(teacher: TaskScore) -> str:
    return "unknown number of dev rows" if math.isnan(teacher.error) else f"teacher {AT_CHANCE}"


def _without_nan(share: float) -> float | None:
    return None if math.isnan(share) else share
