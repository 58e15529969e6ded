"""How the models were trained: settings, losses, learning rate, tokens per second."""

from collections.abc import Mapping, Sequence
from typing import Any

from distilray.evaluation.report.charts import Line, line_chart
from distilray.evaluation.report.figures import shown, size, time
from distilray.evaluation.report.page import Markup, beside, code, figure, figures, heading, markup, paragraph, table
from distilray.evaluation.report.runs import Run, Runs
from distilray.runtime.run_folder import METRICS_FILE
from distilray.training.reporter import HELDOUT_FILE

# What is in the rows of a training run beside the terms of its loss.
_NO_TERMS = {
    "step",
    "total_steps",
    "loss",
    "tokens_per_s",
    "padding",
    "data_wait",
    "mfu",
    "memory_gb",
    "skipped_steps",
    "eta_s",
    "time",
    "learning_rate",
    "grad_norm",
    "hit@1",
    "agreement",
}
_SETTINGS = ("batch_size", "precision", "dropout", "seed")
TERMS: Mapping[str, str] = {
    "ce": "KL to the teacher's probabilities",
    "mlm": "masked language modelling",
    "cos": "cosine of the hidden states",
    "mse": "squared difference of the logits",
    "hidden": "squared difference of hidden states",
    "attention": "squared difference of attention scores",
    "values": "KL of the relations between values",
}

_HELDOUT_KEYS = ("hit@1", "agreement", "loss", *TERMS)  # in this order

Rows = Sequence[Mapping[str, Any]]


def teacher_section(runs: Runs) -> Markup:
    """The runs of `train_teacher`."""
    return markup(*[_training(run) for run in runs.of("train_teacher")])


def distillation_section(runs: Runs) -> Markup:
    """The runs of `distill`."""
    return markup(*[_training(run) for run in runs.of("distill")])


def loss_weights(run: Run) -> dict[str, float]:
    """The weights of the terms that a distillation has used."""
    losses: Mapping[str, Any] = run.config.get("losses", {})
    return {term: losses[f"alpha_{term}"] for term in TERMS if losses.get(f"alpha_{term}")}


def _training(run: Run) -> Markup:
    rows, heldout = run.lines(METRICS_FILE), run.lines(HELDOUT_FILE)
    lead = paragraph("Result: ", run.record["summary"], ".")
    return markup(heading(run.name), lead, beside(_settings(run), _heldout(heldout)), _charts(run, rows, heldout))


def _settings(run: Run) -> Markup:
    optimizer: Mapping[str, Any] = run.config.get("optimizer", {})
    weights = loss_weights(run)
    rows: list[list[object]] = [["steps", shown("steps", run.counts.get("steps"))]]
    rows += [[key.replace("_", " "), shown(key, run.config[key])] for key in _SETTINGS if key in run.config]
    rows.append(["highest learning rate", shown("learning_rate", optimizer.get("learning_rate"))])
    rows += [[f"weight of {term} ({TERMS[term]})", shown("weight", weight)] for term, weight in weights.items()]
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
    keys = list(dict.fromkeys([*_HELDOUT_KEYS, *(key for key in rows[-1] if key != "step")]))
    ends = [rows[0], rows[-1]] if len(rows) > 1 else [rows[-1]]
    names = {"hit@1": "true token is the best (hit@1)", "agreement": "teacher's best token is the best", **TERMS}
    body = [[names.get(key, key), *[shown(key, row.get(key)) for row in ends]] for key in keys if key in rows[-1]]
    return table("Held-out scores", ["", *[f"step {row['step']:,}" for row in ends]], body)


def _charts(run: Run, rows: Rows, heldout: Rows) -> Markup:
    steps = [row["step"] for row in rows]
    found = {key for row in rows for key in row} - _NO_TERMS
    terms = [*(term for term in TERMS if term in found), *sorted(found - set(TERMS))]
    names = ["loss", *(terms if len(terms) > 1 else [])]  # with one term the loss is that term
    training = [Line(name, steps, [row.get(name) for row in rows]) for name in names]
    seldom = [row["step"] for row in heldout]
    measured = [Line("held out: loss", seldom, [row.get("loss") for row in heldout], measured=True)]
    scores = [
        Line(title, seldom, [row.get(key) for row in heldout], measured=True)
        for key, title in (("hit@1", "hit@1"), ("agreement", "teacher's best token"))
        if any(key in row for row in heldout)
    ]
    of_run = f"of {run.name}, by step"
    charts = (
        ("Loss and its terms" if len(terms) > 1 else "Loss", [*training, *measured], "loss"),
        ("Learning rate", [Line("learning rate", steps, [row.get("learning_rate") for row in rows])], "learning rate"),
        ("Tokens per second", [Line("tokens/s", steps, [row.get("tokens_per_s") for row in rows])], "tokens/s"),
        ("Held-out scores", scores, "share"),
    )
    drawn = [
        (title, line_chart(f"{title} {of_run}", lines, x_label="step", y_label=unit, wide=unit == "loss"))
        for title, lines, unit in charts
    ]
    return figures(*[figure(f"{title} {of_run}", chart) for title, chart in drawn if chart])
