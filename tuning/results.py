"""What a search has found: its trials as a table and a plot, the winner of each task, and the recipe of the winners."""

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
from distilray.finetuning.progress import Evaluation
from distilray.statistics import is_above_chance
from tuning.records import STATUSES, TrialRecord

RECIPE_FILE = "best.yaml"
BEST_FOLDER = "best"  # of its run
_SHOWN_TRIALS = 10
_PANEL_INCHES = (5.0, 3.2)
_COLUMNS = 2


@dataclass(frozen=True)
class TaskSearch:
    """The trials of a task.

    Attributes:
        settings: where a trial says nothing else.
        records: in the order of trials; some may be missing when the time of the search was over before they began.
        planned: trials that were to be.
    """

    task: TaskName
    settings: TaskConfig
    records: Sequence[TrialRecord]
    planned: int

    def best(self, record: TrialRecord) -> Evaluation | None:
        """The best evaluation of a trial by the metric of the task."""
        return record.best(self.settings.metric)

    def score(self, record: TrialRecord) -> float | None:
        """Its score."""
        best = self.best(record)
        return None if best is None else best.scores[self.settings.metric]

    @property
    def winner(self) -> TrialRecord:
        """The trial with the best evaluation; of equal ones that which took fewer steps, then the first.

        Raises:
            InputError: no trial has an evaluation.
        """

        def rank(record: TrialRecord) -> tuple[float, int, int]:
            best = self.best(record)
            assert best is not None
            return -best.scores[self.settings.metric], best.step, record.number

        scored = [record for record in self.records if record.evaluations]
        if not scored:
            reason = next((record.reason for record in self.records if record.reason), "the time was over before")
            raise InputError(
                f"{self.task}: none of {len(self.records)} trials has a score; the first: {reason}; "
                "mend that and choose another run_dir, since failed trials are not run again"
            )
        return min(scored, key=rank)

    @property
    def winning_settings(self) -> TaskConfig:
        """The settings of the winner."""
        return with_values(self.settings, self.winner.values)

    @property
    def epochs(self) -> float:
        """Epochs that were trained in all trials."""
        return sum(record.epochs for record in self.records)

    def counts(self) -> dict[str, int]:
        """Trials by how they ended."""
        found = Counter(record.status for record in self.records)
        counts = {status: found[status] for status in STATUSES if found[status]}
        absent = self.planned - len(self.records)
        return counts | ({"not begun": absent} if absent > 0 else {})


def trials_csv(searches: Sequence[TaskSearch]) -> bytes:
    """A row for each trial of each task."""
    names = list(dict.fromkeys(name for search in searches for record in search.records for name in record.values))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    ends = ("evaluations", "epochs", "metric", "best_score", "seconds", "reason")
    writer.writerow(["task", "trial", "status", *names, *ends])
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
    """An SVG with a panel for each task: the score of every trial as it went on, the winner on top."""
    # Imported here: matplotlib makes folders in the user's home when it is imported.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(searches))
    rows = -(-len(searches) // columns)
    with mpl.rc_context({"svg.hashsalt": "distilray"}):  # the same file from the same trials
        figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for panel, search in zip(panels, searches, strict=False):
            _draw(panel, search)
        for panel in panels[len(searches) :]:
            panel.set_visible(False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw(panel: Any, search: TaskSearch) -> None:
    metric, winner = search.settings.metric, search.winner
    for record in [*(each for each in search.records if each is not winner), winner]:
        epochs = [evaluation.epoch for evaluation in record.evaluations]
        scores = [evaluation.scores[metric] for evaluation in record.evaluations]
        if record is winner:
            panel.plot(epochs, scores, marker="o", color="tab:red", linewidth=2, label=f"winner, trial {record.number}")
        else:
            cut = record.status != "complete"
            panel.plot(epochs, scores, marker=".", color="0.75" if cut else "tab:blue", alpha=0.7, linewidth=1)
    panel.plot([], [], marker=".", color="tab:blue", linewidth=1, label="to its end")
    panel.plot([], [], marker=".", color="0.75", linewidth=1, label="ended early")
    panel.set_title(f"{search.task}: {len(search.records)} trials")
    panel.set_xlabel("epoch")
    panel.set_ylabel(f"{metric}, dev")
    panel.legend(fontsize="small", loc="best")


def best_recipe(config: SearchGlueConfig, searches: Sequence[TaskSearch], summary: Mapping[str, Any]) -> bytes:
    """A recipe of `jobs.evaluate_glue` with the settings of the winners.

    Args:
        summary: of `collect_scores`, the winners' scores with their own seeds.
    """
    values = {
        "run_dir": f"{config.run_dir.rstrip('/')}/{BEST_FOLDER}",
        "model_dir": config.model_dir,
        "glue_dir": config.glue_dir,
        "seed": config.seed,
        "tasks": [search.task for search in searches],
        "allow_other_row_counts": config.allow_other_row_counts,
        "precision": config.precision,
        "per_task": {search.task: search.winning_settings.model_dump(mode="json") for search in searches},
        "scaling": winners_scaling(config).model_dump(mode="json"),
        "ray": config.ray.model_dump(mode="json"),
    }
    recipe = f"{config.run_dir.rstrip('/')}/{RECIPE_FILE}"
    lines = [
        "The best settings of a search by jobs.search_glue, for:",
        f"python -m jobs.evaluate_glue --recipe {recipe}",
    ]
    for search in searches:
        figures = summary[search.task][search.settings.metric]
        lines.append(
            f"{search.task}: {search.settings.metric} on dev {search.score(search.winner):.4f} in the search, "
            f"{figures['median']:.4f} as the median of seeds {', '.join(map(str, search.settings.seeds))}"
        )
    header = "".join(f"# {line}\n" for line in lines)
    return (header + yaml.safe_dump(values, sort_keys=False)).encode()


def search_summary(
    search: TaskSearch, scores: Sequence[float], seed: int, *, majority: float, dev_rows: Mapping[str, int]
) -> dict[str, Any]:
    """What `scores.json` says of the search of a task.

    Args:
        scores: of the winner, with its own seeds.
        seed: of the trials.
        majority: score of one answer for every dev row.
        dev_rows: number of rows by dev set.
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
    """The best trials of a task."""
    ended = ", ".join(f"{count} {status}" for status, count in search.counts().items())
    table = Table(title=f"{search.task}: {search.settings.metric} of the best trials on dev ({ended})")
    names = list(dict.fromkeys(name for record in search.records for name in record.values))
    for heading in ("trial", *names, "evaluations", search.settings.metric, "ended"):
        table.add_column(heading, justify="left" if heading == "ended" else "right")
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
    """One worker for each fine-tuning of a winner, with what a trial has; a GPU whole.

    Args:
        room: trials that the cluster holds at a time, by their memory too.
    """
    has_gpu = config.trial.gpus > 0
    return FineTuneScaling(
        num_workers=1,
        use_gpu=has_gpu,
        cpus_per_worker=math.ceil(config.trial.cpus),
        max_parallel=None if has_gpu else room,
    )
