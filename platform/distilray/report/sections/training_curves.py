"""Sections on the training of teacher and student: losses, learning rate, tokens per second, scores, settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from distilray.distillation.losses import LOSSES
from distilray.report.blocks import code, figure, heading, join, paragraph, side_by_side, table
from distilray.report.charts import Line, line_chart
from distilray.report.formatting import format_duration, format_size, format_value, short_hash
from distilray.report.runs import Run, Runs
from distilray.runtime.run_folder import METRICS_FILE
from distilray.training.reporter import HELDOUT_FILE

_SETTINGS = ("batch_size", "precision", "dropout", "seed")
_SCORE_LABELS = {
    "hit@1": "true token predicted (hit@1)",
    "agreement": "teacher's token predicted (agreement)",
    "loss": "loss",
}

Rows = Sequence[Mapping[str, Any]]


def teacher_section(runs: Runs) -> Markup:
    return join(*[_training(runs.title(run), run) for run in runs.by_job("train_teacher")])


def distillation_section(runs: Runs) -> Markup:
    return join(*[_training(runs.title(run), run) for run in runs.by_job("distill")])


def loss_weights(run: Run) -> dict[str, float]:
    """Return the nonzero weights of a distillation's loss terms."""
    losses: Mapping[str, Any] = run.config.get("losses", {})
    return {name: losses[f"alpha_{name}"] for name in LOSSES if losses.get(f"alpha_{name}")}


def _training(title: str, run: Run) -> Markup:
    rows, heldout = run.read_json_lines(METRICS_FILE), run.read_json_lines(HELDOUT_FILE)
    return join(
        heading(title),
        paragraph("Result: ", run.record["summary"], "."),
        _charts(run, rows, heldout),
        side_by_side("tables", _heldout(heldout), _settings(run)),
    )


def _settings(run: Run) -> Markup:
    optimizer: Mapping[str, Any] = run.config.get("optimizer", {})
    weights = loss_weights(run)
    rows: list[list[object]] = [["steps", format_value("steps", run.counts.get("steps"))]]
    rows += [[key.replace("_", " "), format_value(key, run.config[key])] for key in _SETTINGS if key in run.config]
    rows.append(["peak learning rate", format_value("learning_rate", optimizer.get("learning_rate"))])
    rows += [
        [f"weight of {name} ({LOSSES[name].label})", format_value("weight", weight)] for name, weight in weights.items()
    ]
    if weights:
        rows.append(["temperature", format_value("temperature", run.config["losses"].get("temperature"))])
    for key, title in (("teacher_parameters", "parameters of the teacher"), ("parameters", "parameters")):
        if key in run.counts:
            rows.append([title, run.counts[key]])
    if run.weights:
        rows.append(["weights", format_size(run.weights["bytes"])])
        rows.append(["sha256 of the weights", code(short_hash(run.weights["sha256"]))])
    rows.append(["wall time of the last process", format_duration(run.record["wall_s"])])
    return table("Settings and size", ["", ""], rows)


def _heldout(rows: Rows) -> Markup:
    if not rows:
        return Markup("")
    first_and_last = [rows[0], rows[-1]] if len(rows) > 1 else [rows[-1]]
    labels = _SCORE_LABELS | {loss.name: loss.label for loss in LOSSES.values()}
    keys = [key for key in dict.fromkeys([*labels, *rows[-1]]) if key in rows[-1] and key != "step"]
    body = [[labels.get(key, key), *[format_value(key, row.get(key)) for row in first_and_last]] for key in keys]
    return table("Held-out scores", ["", *[f"step {row['step']:,}" for row in first_and_last]], body)


def _charts(run: Run, rows: Rows, heldout: Rows) -> Markup:
    terms = [name for name in LOSSES if any(name in row for row in rows)]
    losses = [_line(rows, name) for name in ["loss", *(terms if len(terms) > 1 else [])]]  # a single term is the loss
    scores = [
        _line(heldout, key, title, has_markers=True)
        for key, title in (("hit@1", "hit@1"), ("agreement", "agreement with the teacher"))
        if any(key in row for row in heldout)
    ]
    charts = (
        (
            "Loss and its terms" if len(terms) > 1 else "Loss",
            [*losses, _line(heldout, "loss", "held-out loss", has_markers=True)],
            "loss",
        ),
        ("Learning rate", [_line(rows, "learning_rate", "learning rate")], "learning rate"),
        ("Tokens per second", [_line(rows, "tokens_per_s", "tokens/s")], "tokens/s"),
        ("Held-out scores", scores, "share"),
    )
    captions = [f"{title} of {run.name} by step" for title, *_ in charts]
    return side_by_side(
        "figures",
        *[
            figure(caption, line_chart(caption, lines, x_label="step", y_label=unit, allow_log=unit == "loss"))
            for caption, (_, lines, unit) in zip(captions, charts, strict=True)
        ],
    )


def _line(rows: Rows, key: str, title: str = "", *, has_markers: bool = False) -> Line:
    return Line(title or key, [row["step"] for row in rows], [row.get(key) for row in rows], has_markers)
