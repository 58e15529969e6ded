"""Scores of several seeds in one line each, beside what has been published, as a table."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.config.glue import GLUE_TASKS, METRICS, SCORE, TaskName

# Dev scores of the literature. `card`: the customer's model card; `DistilBERT`, `BERT base`: the table of DistilBERT's
# authors (median of 5 seeds). They give one number a task, and do not say which where a task has two metrics.
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
_FIGURES = ("median", "mean", "spread", "seeds", "majority", "of teacher")

Row = Mapping[str, Any]


def summarise(rows: Iterable[Row]) -> dict[TaskName, dict[str, dict[str, float]]]:
    """Median, mean, lowest, highest and standard deviation over the seeds, by task and metric.

    Args:
        rows: `task, metric, value` each, one for each seed.
    """
    values: dict[TaskName, dict[str, list[float]]] = {}
    for row in rows:
        values.setdefault(row["task"], {}).setdefault(row["metric"], []).append(row["value"])
    return {
        task: {metric: _figures(found) for metric, found in by_metric.items()} for task, by_metric in values.items()
    }


def kept(student: float, teacher: float) -> float:
    """The share of the teacher's score that is kept; not a number where the teacher has none to keep."""
    return student / teacher if teacher > 0 else math.nan  # also where the teacher is not a number


def macro(summary: Mapping[TaskName, Mapping[str, Mapping[str, float]]]) -> tuple[float, int]:
    """Mean over the tasks of GLUE of the median score, and the number of tasks it is made of."""
    medians = [summary[task][SCORE]["median"] for task in GLUE_TASKS if task in summary]
    return (statistics.fmean(medians) if medians else math.nan), len(medians)


def glue_table(scores: Mapping[str, Any], teacher: Mapping[str, Any] | None = None) -> Table:
    """The table of a `scores.json`: a line for each metric, in per cent as in the literature.

    Args:
        scores: what `jobs.evaluate_glue` writes.
        teacher: the same of the teacher.
    """
    mean, count = macro(scores["summary"])
    title = f"GLUE, dev split, model {scores['model_hash'][:12]}"
    caption = f"macro score {100 * mean:.1f} over {count} of {len(GLUE_TASKS)} tasks" if count else ""
    table = Table(title=title, caption=caption, show_lines=False)
    for heading in ("task", "metric", *_FIGURES, *PUBLISHED):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    table.add_column("remarks")
    for task in scores["tasks"]:
        for line in _lines(task, scores, teacher):
            table.add_row(*line)
    return table


def _figures(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "seeds": len(values),
    }


def _lines(task: TaskName, scores: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> list[list[str]]:
    published = [f"{PUBLISHED[source][task]:.1f}" if task in PUBLISHED[source] else "" for source in PUBLISHED]
    if task in scores["missing"]:
        return [[task, "", *[""] * len(_FIGURES), *published, "missing: no such folder in glue_dir"]]
    remarks = ", ".join(scores["remarks"].get(task, []))
    metrics = METRICS[task] if len(METRICS[task]) == 1 else (*METRICS[task], SCORE)
    lines = []
    for number, metric in enumerate(metrics):
        found = scores["summary"][task][metric]
        share = kept(found["median"], _median(teacher, task, metric))
        figures = [
            f"{100 * found['median']:.1f}",
            f"{100 * found['mean']:.1f}",
            f"{100 * found['min']:.1f} to {100 * found['max']:.1f}",
            f"{found['seeds']:.0f}",
            f"{100 * scores['majority'][task][metric]:.1f}",
            "" if math.isnan(share) else f"{share:.1%}",
        ]
        beside = published if number == 0 else [""] * len(published)
        lines.append([task if number == 0 else "", metric, *figures, *beside, remarks if number == 0 else ""])
    return lines


def _median(scores: Mapping[str, Any] | None, task: TaskName, metric: str) -> float:
    if scores is None or task not in scores["summary"]:
        return math.nan
    return float(scores["summary"][task][metric]["median"])
