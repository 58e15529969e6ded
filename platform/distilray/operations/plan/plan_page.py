"""Tables and HTML page of a plan."""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup
from rich.table import Table

from distilray.operations.plan.simulation import STEP_PARTS
from distilray.report.blocks import (
    Section,
    figure,
    from_rich,
    join,
    listing,
    paragraph,
    render_page,
    side_by_side,
    tiles,
)
from distilray.report.charts import Line, line_chart, stacked_chart

Values = Mapping[str, Any]
_BETWEEN_STEPS = ("checkpoints", "evaluation")
_TITLE = "Capacity plan"
_STAGES = {
    "stage": "{stage}",
    "hours": "{hours:,.2f}",
    "machines": "{machines} x {machine}",
    "device-hours": "{device_hours:,.1f} {device}-h",
    "cost, $": "{cost:,.2f}",
    "GB written": "{written_gb:,.1f}",
    "GB kept": "{kept_gb:,.1f}",
    "workload": "{note}",
}
_SCALING = {
    "workers": "{workers}",
    "step, s": "{step_s:,.3g}",
    "tokens/s": "{tokens_per_s:,.0f}",
    "efficiency": "{efficiency:.1%}",
    "hours": "{hours:,.2f}",
    "hours, p90": "{hours_p90:,.2f}",
    "preempted": "{preemptions:,.1f}",
    "cost, $": "{cost:,.2f}",
    "longest part": "{bound} ({share:.0%})",
}
_REFERENCE = {
    "run": "{name}",
    "precision": "{precision}",
    "predicted": "{predicted_hours:,.1f}",
    "published": "{published_hours:,.0f}",
    "ratio": "{ratio:.2f}",
    "assumed MFU": "{mfu:.1%}",
    "implied MFU": "{implied_mfu:.1%}",
}


def plan_tables(values: Values) -> list[Table]:
    """Return the tables of stages, scaling, and the published run."""
    reference = _table("the published run: predicted and published hours", _REFERENCE, values["reference"])
    return [_stage_table(values), _scaling_table(values), reference]


def plan_page(values: Values) -> str:
    """Return a self-contained HTML page without scripts."""
    total, training = values["total"], values["training"]
    headline = tiles(
        [
            ("cost", f"${total['cost']:,.0f}", "all stages, whole machines"),
            ("time", f"{total['hours']:,.1f} h", "stages in sequence"),
            ("disk", f"{total['kept_gb']:,.1f} GB", f"kept; {total['written_gb']:,.1f} GB written"),
            ("training", f"{training['flops'] / 1e18:,.3g} EFLOPs", f"{training['tokens'] / 1e9:,.2f} G tokens"),
            ("memory", f"{training['worker_gb']:,.1f} GB", "per worker"),
        ]
    )
    warnings = [Markup('<p class="warning">{}</p>\n').format(warning) for warning in values["warnings"]]
    stages, scaling, reference = map(from_rich, plan_tables(values))
    throughput, parts = scaling_charts(values)
    charts = side_by_side(
        "figures",
        figure("Tokens per second: simulated, and with ideal scaling", throughput),
        figure("Parts of a step, summed over all workers", parts),
    )
    about = paragraph(
        "The same model applied to the run in the DistilBERT paper. With the implied MFU, the prediction would equal "
        "the published time."
    )
    sections = [
        Section("stages", "Stages", stages),
        Section("scaling", "Scaling", join(charts, scaling)),
        Section("check", "Comparison with the paper", join(reference, about)),
        Section("assumptions", "Assumptions", listing(values["assumptions"])),
    ]
    return render_page(_TITLE, join(headline, *warnings), sections)


def scaling_charts(values: Values) -> tuple[Markup, Markup]:
    """Return charts of the throughput and of the parts of a step, by number of workers."""
    runs = values["scaling"]
    workers = [run["workers"] for run in runs]
    rates = [run["tokens_per_s"] for run in runs]
    ideal = [run["tokens_per_s"] / run["efficiency"] for run in runs]
    lines = [Line("simulated", workers, rates, has_markers=True), Line("ideal", workers, ideal)]
    bars = {str(run["workers"]): _chart_parts(run) for run in runs}
    return (
        line_chart("Throughput", lines, x_label="workers", y_label="tokens/s"),
        stacked_chart("Worker seconds of a step", bars, x_label="workers", y_label="worker seconds of a step"),
    )


def _chart_parts(run: Values) -> dict[str, float]:
    """Return the worker seconds of each part of a step, with the work between steps merged into one part."""
    work = {name: run["workers"] * run["parts"][name] for name in STEP_PARTS if name not in _BETWEEN_STEPS}
    return {**work, "between steps": run["workers"] * sum(run["parts"][name] for name in _BETWEEN_STEPS)}


def _table(title: str, columns: Mapping[str, str], rows: Iterable[Values]) -> Table:
    """Return a table.

    Args:
        columns: format strings by heading, filled with the values of each row.
    """
    table = Table(title=title)
    for number, heading in enumerate(columns):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(cell.format_map(row) for cell in columns.values()))
    return table


def _stage_table(values: Values) -> Table:
    table = _table("stages", _STAGES, values["stages"])
    total = (
        "total",
        "{hours:,.2f}",
        "",
        "",
        "{cost:,.2f}",
        "{written_gb:,.1f}",
        "{kept_gb:,.1f}",
        "in sequence",
    )
    table.add_row(*(cell.format_map(values["total"]) for cell in total))
    return table


def _scaling_table(values: Values) -> Table:
    rows = [{**run, "share": run["parts"][run["bound"]] / run["step_s"]} for run in values["scaling"]]
    return _table(f"distill on {values['training']['machine']}, simulated", _SCALING, rows)
