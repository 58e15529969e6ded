"""Table of GLUE scores next to the majority baseline, the teacher and published scores."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.evaluation.glue.comparison import AT_CHANCE, Comparison, find_comparison, format_percent, task_score
from distilray.finetuning.tasks import TASKS

# Published dev scores, from DistilBERT's model card and from a table by DistilBERT's authors (median of 5 seeds). Both
# give one number per task, even if the task has two metrics, and do not name the metric.
PUBLISHED: Mapping[str, Mapping[TaskName, float]] = {
    "card": {
        "cola": 51.3,
        "sst2": 91.3,
        "mrpc": 87.5,
        "stsb": 85.8,
        "qqp": 88.5,
        "mnli": 82.2,
        "qnli": 89.2,
        "rte": 59.9,
    },
    "DistilBERT": {
        "cola": 51.3,
        "sst2": 91.3,
        "mrpc": 87.5,
        "stsb": 86.9,
        "qqp": 88.5,
        "mnli": 82.1,
        "qnli": 89.2,
        "rte": 59.9,
        "wnli": 56.3,
    },
    "BERT base": {
        "cola": 56.3,
        "sst2": 92.7,
        "mrpc": 88.6,
        "stsb": 89.0,
        "qqp": 89.6,
        "mnli": 84.7,
        "qnli": 91.8,
        "rte": 69.3,
        "wnli": 53.5,
    },
}
# Scores of the most frequent class of the train split on the official dev split, as the mean of the task's metrics.
# Its dev rows are 444 of 872 (SST-2), 279 of 408 (MRPC), 25,545 of 40,430 (QQP), 3,213 of 9,815 and 3,240 of 9,832
# (MNLI: contradiction leads in train by three rows), 2,761 of 5,463 (QNLI), 146 of 277 (RTE), 40 of 71 (WNLI).
PUBLISHED_MAJORITY: Mapping[TaskName, float] = {
    "cola": 0.0,
    "sst2": 50.9,
    "mrpc": 74.8,
    "stsb": 0.0,
    "qqp": 31.6,
    "mnli": 32.8,
    "qnli": 50.5,
    "rte": 52.7,
    "wnli": 56.3,
}

_KEPT, _KEPT_ABOVE = "kept", "kept above chance"
_NUMERIC = ("median", "95% interval", "spread", "seeds", "majority", "above", _KEPT, _KEPT_ABOVE)
_HEADINGS = ("task", "metric", *_NUMERIC, *PUBLISHED, "remarks")
_LEFT_ALIGNED = ("task", "metric", "remarks")

Row = Mapping[str, Any]


def published_scores(name: str, tasks: Iterable[TaskName]) -> dict[str, Any]:
    """Return published scores in the format of `scores.json`; tasks without a published score are skipped.

    The published number of a task with two metrics counts as their mean.
    """
    published: list[TaskName] = [task for task in tasks if task in PUBLISHED[name]]
    return {
        "summary": {task: {SCORE: {"median": PUBLISHED[name][task] / 100}} for task in published},
        "majority": {task: {SCORE: PUBLISHED_MAJORITY[task] / 100} for task in published},
    }


def summarize_seeds(rows: Iterable[Row]) -> dict[TaskName, dict[str, dict[str, float]]]:
    """Return median, mean, minimum, maximum and standard deviation over the seeds, by task and metric.

    Args:
        rows: one row with `task`, `metric` and `value` per seed and metric.
    """
    values: dict[TaskName, dict[str, list[float]]] = {}
    for row in rows:
        values.setdefault(row["task"], {}).setdefault(row["metric"], []).append(row["value"])
    return {
        task: {metric: _statistics(scores) for metric, scores in by_metric.items()}
        for task, by_metric in values.items()
    }


def macro_score(summary: Mapping[TaskName, Mapping[str, Mapping[str, float]]]) -> tuple[float, int]:
    """Return the mean of the median scores of the GLUE tasks, and the number of these tasks."""
    medians = [summary[task][SCORE]["median"] for task in GLUE_TASKS if task in summary]
    return (statistics.fmean(medians) if medians else math.nan), len(medians)


def task_remarks(scores: Mapping[str, Any], task: TaskName) -> list[str]:
    """Return the remarks on a task; `AT_CHANCE` is added, since earlier versions did not store it."""
    remarks = list(scores.get("remarks", {}).get(task, []))
    is_complete = AT_CHANCE in remarks or task_score(scores, task).is_above_chance
    return remarks if is_complete else [*remarks, AT_CHANCE]


def glue_table(scores: Mapping[str, Any], teacher: Mapping[str, Any] | None = None) -> Table:
    """Return a table with one row per metric; scores are multiplied by 100, as in the literature.

    Args:
        scores: content of `scores.json` of `jobs.evaluate_glue`.
        teacher: `scores.json` of the teacher, for a run without a stored comparison.
    """
    comparison = find_comparison(scores, teacher)
    mean, count = macro_score(scores["summary"])
    captions = [f"macro score {100 * mean:.1f} over {count} of {len(GLUE_TASKS)} tasks"] if count else []
    captions += [] if comparison is None else [comparison.summary]
    table = Table(title=f"GLUE, dev split, model {scores['model_hash'][:12]}", caption="; ".join(captions))
    rows = [row for task in scores["tasks"] for row in _task_rows(task, scores, comparison)]
    headings = [heading for heading in _HEADINGS if any(row.get(heading) for row in rows)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _LEFT_ALIGNED else "right")
    for row in rows:
        table.add_row(*(row.get(heading, "") for heading in headings))
    return table


def _statistics(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "seeds": len(values),
    }


def _task_rows(task: TaskName, scores: Mapping[str, Any], comparison: Comparison | None) -> list[dict[str, str]]:
    """Return the rows of a task as cells by heading."""
    published = {source: f"{PUBLISHED[source][task]:.1f}" for source in PUBLISHED if task in PUBLISHED[source]}
    if task in scores["missing"]:
        return [{"task": task, **published, "remarks": "missing: no such folder in glue_dir"}]
    metrics = list(TASKS[task].metrics)
    metrics += [] if len(metrics) == 1 else [SCORE]
    rows = [
        _metric_row(metric, scores["summary"][task][metric], scores["majority"][task][metric]) for metric in metrics
    ]
    own = task_score(scores, task)
    # The last row contains the task's score, which is the only metric of most tasks.
    rows[-1]["95% interval"] = "" if own.interval is None else " to ".join(f"{100 * end:.1f}" for end in own.interval)
    if comparison is not None and (kept := comparison.tasks.get(task)):
        rows[-1][_KEPT] = format_percent(kept.raw, kept.raw_interval)
        if task not in comparison.left_out:
            rows[-1][_KEPT_ABOVE] = format_percent(kept.above_chance, kept.above_chance_interval)
    remarks = task_remarks(scores, task)
    remarks += ["not in the mean, see below"] if comparison and task in comparison.left_out else []
    rows[0] |= {"task": task, **published, "remarks": ", ".join(remarks)}
    return rows


def _metric_row(metric: str, summary: Mapping[str, float], majority: float) -> dict[str, str]:
    return {
        "metric": metric,
        "median": f"{100 * summary['median']:.1f}",
        "seeds": f"{summary['seeds']:.0f}",
        "spread": f"{100 * summary['min']:.1f} to {100 * summary['max']:.1f}",
        "majority": f"{100 * majority:.1f}",
        "above": f"{100 * (summary['median'] - majority):+.1f}",
    }
