"""Table of GLUE scores: a line for each metric, beside the baseline, the teacher and published scores."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from distilray.config.glue import GLUE_TASKS, SCORE, TaskName
from distilray.evaluation.glue.comparison import AT_CHANCE, Comparison, find_comparison, format_percent, task_score
from distilray.finetuning.tasks import TASKS

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
# Official dev scores of the most frequent class of the train split, as the mean of a task's metrics. In the official
# files it has 444 of 872 dev rows (SST-2), 279 of 408 (MRPC), 25,545 of 40,430 (QQP), 3,213 of 9,815 and 3,240 of 9,832
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
_FIGURES = ("median", "95% interval", "spread", "seeds", "majority", "above", _KEPT, _KEPT_ABOVE)
_HEADINGS = ("task", "metric", *_FIGURES, *PUBLISHED, "remarks")
_LEFT = ("task", "metric", "remarks")

Row = Mapping[str, Any]


def published_scores(name: str, tasks: Iterable[TaskName]) -> dict[str, Any]:
    """Return published scores as a `scores.json` has them, on those of some tasks that were published.

    A single number of a task with two metrics counts as their mean.
    """
    published: list[TaskName] = [task for task in tasks if task in PUBLISHED[name]]
    return {
        "summary": {task: {SCORE: {"median": PUBLISHED[name][task] / 100}} for task in published},
        "majority": {task: {SCORE: PUBLISHED_MAJORITY[task] / 100} for task in published},
    }


def summarize_seeds(rows: Iterable[Row]) -> dict[TaskName, dict[str, dict[str, float]]]:
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


def macro_score(summary: Mapping[TaskName, Mapping[str, Mapping[str, float]]]) -> tuple[float, int]:
    """Mean over the tasks of GLUE of the median score, and the number of tasks it is made of."""
    medians = [summary[task][SCORE]["median"] for task in GLUE_TASKS if task in summary]
    return (statistics.fmean(medians) if medians else math.nan), len(medians)


def task_remarks(scores: Mapping[str, Any], task: TaskName) -> list[str]:
    """Return the remarks on a task; those of an earlier version are completed with `AT_CHANCE`."""
    remarks = list(scores.get("remarks", {}).get(task, []))
    is_said = AT_CHANCE in remarks or task_score(scores, task).is_above_chance
    return remarks if is_said else [*remarks, AT_CHANCE]


def glue_table(scores: Mapping[str, Any], teacher: Mapping[str, Any] | None = None) -> Table:
    """Return the table of a `scores.json`: a line for each metric, in per cent as in the literature.

    Args:
        scores: what `jobs.evaluate_glue` writes.
        teacher: the same of the teacher, for a run that holds no comparison with it.
    """
    compared = find_comparison(scores, teacher)
    mean, count = macro_score(scores["summary"])
    captions = [f"macro score {100 * mean:.1f} over {count} of {len(GLUE_TASKS)} tasks"] if count else []
    captions += [] if compared is None else [compared.summary]
    table = Table(title=f"GLUE, dev split, model {scores['model_hash'][:12]}", caption="; ".join(captions))
    lines = [line for task in scores["tasks"] for line in _lines(task, scores, compared)]
    headings = [heading for heading in _HEADINGS if any(line.get(heading) for line in lines)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _LEFT else "right")
    for line in lines:
        table.add_row(*(line.get(heading, "") for heading in headings))
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


def _lines(task: TaskName, scores: Mapping[str, Any], compared: Comparison | None) -> list[dict[str, str]]:
    """Return the cells of a task's lines by heading."""
    published = {source: f"{PUBLISHED[source][task]:.1f}" for source in PUBLISHED if task in PUBLISHED[source]}
    if task in scores["missing"]:
        return [{"task": task, **published, "remarks": "missing: no such folder in glue_dir"}]
    metrics = list(TASKS[task].metrics)
    metrics += [] if len(metrics) == 1 else [SCORE]
    lines = [
        _metric_cells(metric, scores["summary"][task][metric], scores["majority"][task][metric]) for metric in metrics
    ]
    own = task_score(scores, task)
    # The last line is that of the score, which is the only metric of most tasks.
    lines[-1]["95% interval"] = "" if own.interval is None else " to ".join(f"{100 * end:.1f}" for end in own.interval)
    if compared is not None and (kept := compared.tasks.get(task)):
        lines[-1][_KEPT] = format_percent(kept.raw, kept.raw_interval)
        if task not in compared.left_out:
            lines[-1][_KEPT_ABOVE] = format_percent(kept.above_chance, kept.above_chance_interval)
    remarks = task_remarks(scores, task)
    remarks += ["not in the mean, see below"] if compared and task in compared.left_out else []
    lines[0] |= {"task": task, **published, "remarks": ", ".join(remarks)}
    return lines


def _metric_cells(metric: str, figures: Mapping[str, float], majority: float) -> dict[str, str]:
    return {
        "metric": metric,
        "median": f"{100 * figures['median']:.1f}",
        "seeds": f"{figures['seeds']:.0f}",
        "spread": f"{100 * figures['min']:.1f} to {100 * figures['max']:.1f}",
        "majority": f"{100 * majority:.1f}",
        "above": f"{100 * (figures['median'] - majority):+.1f}",
    }
