"""User-facing plan: tables for the terminal, and a page."""

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
_BETWEEN = ("checkpoints", "held-out scores")
_TITLE = "Capacity plan"
_STATIONS = {
    "station": "{station}",
    "hours": "{hours:,.2f}",
    "machines": "{machines} x {machine}",
    "device-hours": "{device_hours:,.1f} {device}-h",
    "cost, $": "{cost:,.2f}",
    "GB written": "{written_gb:,.1f}",
    "GB kept": "{kept_gb:,.1f}",
    "what": "{note}",
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
    "bound by": "{bound} ({share:.0%})",
}
_REFERENCE = {
    "run": "{name}",
    "precision": "{precision}",
    "predicted, h": "{predicted_hours:,.1f}",
    "published, h": "{published_hours:,.0f}",
    "ratio": "{ratio:.2f}",
    "MFU assumed": "{mfu:.1%}",
    "MFU implied": "{implied_mfu:.1%}",
}


def plan_tables(values: Values) -> list[Table]:
    """Return the tables of stages, scaling, and the published run."""
    return [_stations(values), _scaling(values), _table("the model against the paper", _REFERENCE, values["reference"])]


def plan_page(values: Values) -> str:
    """Return one page without scripts that makes no requests."""
    total, training = values["total"], values["training"]
    lead = tiles(
        [
            ("cost", f"${total['cost']:,.0f}", "all stations, machines paid whole"),
            ("time", f"{total['hours']:,.1f} h", "one station after the other"),
            ("disk", f"{total['kept_gb']:,.1f} GB", f"kept; {total['written_gb']:,.1f} GB written"),
            ("training", f"{training['flops'] / 1e18:,.3g} EF", f"{training['tokens'] / 1e9:,.2f} G tokens"),
            ("memory", f"{training['worker_gb']:,.1f} GB", "of a worker"),
        ]
    )
    warnings = [Markup('<p class="warning">{}</p>\n').format(warning) for warning in values["warnings"]]
    stations, scaling, reference = map(from_rich, plan_tables(values))
    throughput, parts = scaling_charts(values)
    drawn = side_by_side(
        "figures",
        figure("Tokens per second: simulated, and without anything to wait for", throughput),
        figure("Where the time of a step goes, all workers together", parts),
    )
    about = paragraph(
        "The same model for the run that the DistilBERT paper gives the hours of. The implied share of the peak is the "
        "one that would make its prediction exact."
    )
    sections = [
        Section("stations", "Stations", stations),
        Section("scaling", "Scaling", join(drawn, scaling)),
        Section("check", "Against the paper", join(reference, about)),
        Section("assumptions", "Assumptions", listing(values["assumptions"])),
    ]
    return render_page(_TITLE, join(lead, *warnings), sections)


def scaling_charts(values: Values) -> tuple[Markup, Markup]:
    """Return throughput and components of a step by number of workers."""
    runs = values["scaling"]
    workers = [run["workers"] for run in runs]
    rates = [run["tokens_per_s"] for run in runs]
    ideal = [run["tokens_per_s"] / run["efficiency"] for run in runs]
    lines = [Line("simulated", workers, rates, measured=True), Line("ideal", workers, ideal)]
    bars = {str(run["workers"]): _shown_parts(run) for run in runs}
    return (
        line_chart("Throughput", lines, x_label="workers", y_label="tokens/s"),
        stacked_chart("Worker seconds of a step", bars, x_label="workers", y_label="worker seconds of a step"),
    )


def _shown_parts(run: Values) -> dict[str, float]:
    """Return the seconds of all workers for a step, with the work between steps as one component."""
    work = {name: run["workers"] * run["parts"][name] for name in STEP_PARTS if name not in _BETWEEN}
    return {**work, "between steps": run["workers"] * sum(run["parts"][name] for name in _BETWEEN)}


def _table(title: str, columns: Mapping[str, str], rows: Iterable[Values]) -> Table:
    """Return a table; `columns` are the formats of the values of a row, by heading."""
    table = Table(title=title)
    for number, heading in enumerate(columns):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(form.format_map(row) for form in columns.values()))
    return table


def _stations(values: Values) -> Table:
    table = _table("stations", _STATIONS, values["stations"])
    total = (
        "in all",
        "{hours:,.2f}",
        "",
        "",
        "{cost:,.2f}",
        "{written_gb:,.1f}",
        "{kept_gb:,.1f}",
        "one after the other",
    )
    table.add_row(*(form.format_map(values["total"]) for form in total))
    return table


def _scaling(values: Values) -> Table:
    rows = [{**run, "share": run["parts"][run["bound"]] / run["step_s"]} for run in values["scaling"]]
    return _table(f"distill on {values['training']['machine']}, simulated", _SCALING, rows)
