"""Training of teacher and student: settings, losses, learning rate, tokens per second."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from distilray.distillation.losses import LOSSES
from distilray.report.blocks import code, figure, heading, join, paragraph, side_by_side, table
from distilray.report.charts import Line, line_chart
from distilray.report.figures import shown, size, time
from distilray.report.runs import Run, Runs
from distilray.runtime.run_folder import METRICS_FILE
from distilray.training.reporter import HELDOUT_FILE

_SETTINGS = ("batch_size", "precision", "dropout", "seed")
_SCORE_LABELS = {
    "hit@1": "true token is the best (hit@1)",
    "agreement": "teacher's best token is the best",
    "loss": "loss",
}

Rows = Sequence[Mapping[str, Any]]


def teacher_section(runs: Runs) -> Markup:
    return join(*map(_training, runs.of("train_teacher")))


def distillation_section(runs: Runs) -> Markup:
    return join(*map(_training, runs.of("distill")))


def loss_weights(run: Run) -> dict[str, float]:
    """Return the weights of the loss terms that a distillation has used."""
    losses: Mapping[str, Any] = run.config.get("losses", {})
    return {name: losses[f"alpha_{name}"] for name in LOSSES if losses.get(f"alpha_{name}")}


def _training(run: Run) -> Markup:
    rows, heldout = run.lines(METRICS_FILE), run.lines(HELDOUT_FILE)
    return join(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        side_by_side("tables", _settings(run), _heldout(heldout)),
        _charts(run, rows, heldout),
    )


def _settings(run: Run) -> Markup:
    optimizer: Mapping[str, Any] = run.config.get("optimizer", {})
    weights = loss_weights(run)
    rows: list[list[object]] = [["steps", shown("steps", run.counts.get("steps"))]]
    rows += [[key.replace("_", " "), shown(key, run.config[key])] for key in _SETTINGS if key in run.config]
    rows.append(["highest learning rate", shown("learning_rate", optimizer.get("learning_rate"))])
    rows += [[f"weight of {name} ({LOSSES[name].label})", shown("weight", weight)] for name, weight in weights.items()]
    if weights:
        rows.append(["temperature", shown("temperature", run.config["losses"].get("temperature"))])
    for key, title in (("teacher_parameters", "parameters of the teacher"), ("parameters", "parameters")):
        if key in run.counts:
            rows.append([title, run.counts[key]])
    if run.weights:
        rows.append(["weights", size(run.weights["bytes"])])
        rows.append(["sha256 of the weights", code(run.weights["sha256"][:12])])
    rows.append(["wall time of the process that finished it", time(run.record["wall_s"])])
    return table("Settings and size", ["", ""], rows)


def _heldout(rows: Rows) -> Markup:
    if not rows:
        return Markup("")
    ends = [rows[0], rows[-1]] if len(rows) > 1 else [rows[-1]]
    labels = _SCORE_LABELS | {loss.name: loss.label for loss in LOSSES.values()}
    keys = [key for key in dict.fromkeys([*labels, *rows[-1]]) if key in rows[-1] and key != "step"]
    body = [[labels.get(key, key), *[shown(key, row.get(key)) for row in ends]] for key in keys]
    return table("Held-out scores", ["", *[f"step {row['step']:,}" for row in ends]], body)


def _charts(run: Run, rows: Rows, heldout: Rows) -> Markup:
    terms = [name for name in LOSSES if any(name in row for row in rows)]
    losses = [_line(rows, name) for name in ["loss", *(terms if len(terms) > 1 else [])]]  # one term is the loss
    scores = [
        _line(heldout, key, title, measured=True)
        for key, title in (("hit@1", "hit@1"), ("agreement", "teacher's best token"))
        if any(key in row for row in heldout)
    ]
    charts = (
        (
            "Loss and its terms" if len(terms) > 1 else "Loss",
            [*losses, _line(heldout, "loss", "held out: loss", measured=True)],
            "loss",
        ),
        ("Learning rate", [_line(rows, "learning_rate", "learning rate")], "learning rate"),
        ("Tokens per second", [_line(rows, "tokens_per_s", "tokens/s")], "tokens/s"),
        ("Held-out scores", scores, "share"),
    )
    captions = [f"{title} of {run.name}, by step" for title, *_ in charts]
    return side_by_side(
        "figures",
        *[
            figure(caption, line_chart(caption, lines, x_label="step", y_label=unit, wide=unit == "loss"))
            for caption, (_, lines, unit) in zip(captions, charts, strict=True)
        ],
    )


def _line(rows: Rows, key: str, title: str = "", *, measured: bool = False) -> Line:
    return Line(title or key, [row["step"] for row in rows], [row.get(key) for row in rows], measured)
