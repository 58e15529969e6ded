"""Results of a search: tables and a plot of the trials, the winner of each task, and a recipe with its settings."""

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich.table import Table

from distilray.config.glue import (
    FineTuneScaling,
    SearchGlueConfig,
    TaskConfig,
    TaskName,
    with_values,
)
from distilray.errors import InputError
from distilray.evaluation.glue.comparison import score_error
from distilray.finetuning.fine_tune_state import Evaluation
from distilray.statistics import is_above_chance
from tuning.records import STATUSES, TrialRecord

RECIPE_FILE = "best.yaml"
BEST_FOLDER = "best"  # run_dir of the recipe
_SHOWN_TRIALS = 10
_PANEL_INCHES = (5.0, 3.2)
_COLUMNS = 2


@dataclass(frozen=True)
class TaskSearch:
    """Trials of a task.

    Attributes:
        settings: settings of the task, which the values of a trial override.
        records: records in the order of the trials, except for trials that the time limit of the search prevented.
        planned: planned number of trials.
    """

    task: TaskName
    settings: TaskConfig
    records: Sequence[TrialRecord]
    planned: int

    def best(self, record: TrialRecord) -> Evaluation | None:
        """Return the best evaluation of a trial by the metric of the task."""
        return record.best(self.settings.metric)

    def score(self, record: TrialRecord) -> float | None:
        """Return the best score of a trial."""
        best = self.best(record)
        return None if best is None else best.scores[self.settings.metric]

    @property
    def winner(self) -> TrialRecord:
        """Trial with the best evaluation; ties go to the one with fewer steps, then to the first one.

        Raises:
            InputError: no trial has an evaluation.
        """

        def rank(record: TrialRecord) -> tuple[float, int, int]:
            best = self.best(record)
            assert best is not None
            return -best.scores[self.settings.metric], best.step, record.number

        scored = [record for record in self.records if record.evaluations]
        if not scored:
            reason = next(
                (record.reason for record in self.records if record.reason), "the time limit was reached before"
            )
            raise InputError(
                f"{self.task}: none of {len(self.records)} trials has a score; the first: {reason}; "
                "fix this and choose another run_dir, because failed trials are not repeated"
            )
        return min(scored, key=rank)

    @property
    def winning_settings(self) -> TaskConfig:
        """Settings of the winner."""
        return with_values(self.settings, self.winner.values)

    @property
    def epochs(self) -> float:
        """Total number of trained epochs."""
        return sum(record.epochs for record in self.records)

    def counts(self) -> dict[str, int]:
        """Return the number of trials by status."""
        by_status = Counter(record.status for record in self.records)
        counts = {status: by_status[status] for status in STATUSES if by_status[status]}
        not_run = self.planned - len(self.records)
        return counts | ({"not run": not_run} if not_run > 0 else {})


def trials_csv(searches: Sequence[TaskSearch]) -> bytes:
    """Return a CSV table with a row for each trial."""
    names = list(dict.fromkeys(name for search in searches for record in search.records for name in record.values))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    results = ("evaluations", "epochs", "metric", "best_score", "seconds", "reason")
    writer.writerow(["task", "trial", "status", *names, *results])
    for search in searches:
        for record in search.records:
            score = search.score(record)
            writer.writerow(
                [
                    search.task,
                    record.number,
                    record.status,
                    *(record.values.get(name, "") for name in names),
                    len(record.evaluations),
                    f"{record.epochs:.3f}",
                    search.settings.metric,
                    "" if score is None else repr(score),
                    f"{record.seconds:.1f}",
                    record.reason,
                ]
            )
    return text.getvalue().encode()


def search_plot(searches: Sequence[TaskSearch]) -> bytes:
    """Return an SVG with the score curves of all trials, one panel per task, with the winner drawn on top."""
    # Not at the top, because importing matplotlib creates folders in the user's home.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(searches))
    rows = -(-len(searches) // columns)
    with mpl.rc_context({"svg.hashsalt": "distilray"}):  # makes the file deterministic
        figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for panel, search in zip(panels, searches, strict=False):
            _draw_curves(panel, search)
        for panel in panels[len(searches) :]:
            panel.set_visible(False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw_curves(panel: Any, search: TaskSearch) -> None:
    metric, winner = search.settings.metric, search.winner
    for record in [*(loser for loser in search.records if loser is not winner), winner]:
        epochs = [evaluation.epoch for evaluation in record.evaluations]
        scores = [evaluation.scores[metric] for evaluation in record.evaluations]
        if record is winner:
            panel.plot(epochs, scores, marker="o", color="tab:red", linewidth=2, label=f"winner, trial {record.number}")
        else:
            ended_early = record.status != "complete"
            panel.plot(epochs, scores, marker=".", color="0.75" if ended_early else "tab:blue", alpha=0.7, linewidth=1)
    panel.plot([], [], marker=".", color="tab:blue", linewidth=1, label="complete")
    panel.plot([], [], marker=".", color="0.75", linewidth=1, label="ended early")
    panel.set_title(f"{search.task}: {len(search.records)} trials")
    panel.set_xlabel("epoch")
    panel.set_ylabel(f"{metric}, dev")
    panel.legend(fontsize="small", loc="best")


def best_recipe(config: SearchGlueConfig, searches: Sequence[TaskSearch], summary: Mapping[str, Any]) -> bytes:
    """Return a recipe of `jobs.evaluate_glue` with the settings of the winners.

    Args:
        summary: scores of the winners with the seeds of the recipe, from `collect_scores`.
    """
    values = {
        "run_dir": f"{config.run_dir.rstrip('/')}/{BEST_FOLDER}",
        "model_dir": config.model_dir,
        "glue_dir": config.glue_dir,
        "seed": config.seed,
        "tasks": [search.task for search in searches],
        "allow_other_row_counts": config.allow_other_row_counts,
        "precision": config.precision,
        "deterministic": config.deterministic,
        "per_task": {search.task: search.winning_settings.model_dump(mode="json") for search in searches},
        "scaling": winners_scaling(config).model_dump(mode="json"),
        "ray": config.ray.model_dump(mode="json"),
    }
    recipe = f"{config.run_dir.rstrip('/')}/{RECIPE_FILE}"
    lines = [
        "Best settings of a search by jobs.search_glue. Use them with:",
        f"python -m jobs.evaluate_glue --recipe {recipe}",
    ]
    for search in searches:
        scores = summary[search.task][search.settings.metric]
        lines.append(
            f"{search.task}: {search.settings.metric} on dev {search.score(search.winner):.4f} in the search, "
            f"{scores['median']:.4f} as the median of seeds {', '.join(map(str, search.settings.seeds))}"
        )
    header = "".join(f"# {line}\n" for line in lines)
    return (header + yaml.safe_dump(values, sort_keys=False)).encode()


def search_summary(
    search: TaskSearch, scores: Sequence[float], seed: int, *, majority: float, dev_rows: Mapping[str, int]
) -> dict[str, Any]:
    """Return the summary of a search for `scores.json`.

    Args:
        scores: scores of the winner with the seeds of the recipe.
        seed: seed of the trials.
        majority: score of predicting the most frequent label for every dev row.
        dev_rows: number of rows of each dev set.
    """
    winner, median = search.winner, statistics.median(scores)
    default = next((record for record in search.records if record.number == 0), None)
    metric = search.settings.metric
    error = score_error(search.task, metric, median, dev_rows)
    return {
        "metric": search.settings.metric,
        "split": "dev",
        "trials": search.counts(),
        "epochs_trained": search.epochs,
        "winner": {
            "trial": winner.number,
            "values": dict(winner.values),
            "seed": seed,
            "score": search.score(winner),
        },
        "fresh": {
            "scores": dict(zip(map(str, search.settings.seeds), scores, strict=True)),
            "median": median,
            "mean": statistics.fmean(scores),
            "spread": max(scores) - min(scores),
        },
        "default": None if default is None else {"values": dict(default.values), "score": search.score(default)},
        "majority": {
            "score": majority,
            "standard_error": error,
            "winner_is_above": is_above_chance(median, majority, error),
        },
    }


def trials_table(search: TaskSearch) -> Table:
    """Return a table of the best trials and of all failed trials of a task."""
    statuses = ", ".join(f"{count} {status}" for status, count in search.counts().items())
    table = Table(title=f"{search.task}: {search.settings.metric} of the best trials on dev ({statuses})")
    names = list(dict.fromkeys(name for record in search.records for name in record.values))
    for heading in ("trial", *names, "evaluations", search.settings.metric, "status"):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    scored = [(search.score(record), record) for record in search.records]
    ranked = sorted(
        ((score, record) for score, record in scored if score is not None), key=lambda pair: (-pair[0], pair[1].number)
    )
    for score, record in ranked[:_SHOWN_TRIALS]:
        values = [_short(record.values.get(name, "")) for name in names]
        table.add_row(str(record.number), *values, str(len(record.evaluations)), f"{score:.4f}", record.status)
    for record in search.records:
        if record.status == "failed":
            values = [_short(record.values.get(name, "")) for name in names]
            table.add_row(str(record.number), *values, str(len(record.evaluations)), "", f"failed: {record.reason}")
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def winners_scaling(config: SearchGlueConfig, room: int | None = None) -> FineTuneScaling:
    """Return one worker with the CPUs of a trial, and a whole GPU if trials use GPUs, for each fine-tuning run.

    Args:
        room: number of trials for which the cluster has room.
    """
    has_gpu = config.trial.gpus > 0
    return FineTuneScaling(
        num_workers=1,
        use_gpu=has_gpu,
        cpus_per_worker=math.ceil(config.trial.cpus),
        max_parallel=None if has_gpu else room,
    )
