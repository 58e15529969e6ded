"""User-facing plan: tables for the terminal, and a page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich.table import Table

from distilray.operations.plan.scaling import PARTS
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


def plan_tables(values: Values) -> list[Table]:
    """Return the tables of stages, scaling, and the published run."""
    return [_stations(values), _scaling(values), _reference(values)]


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
    found = {name: run["workers"] * run["parts"][name] for name in PARTS if name not in _BETWEEN}
    return {**found, "between steps": run["workers"] * sum(run["parts"][name] for name in _BETWEEN)}


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _stations(values: Values) -> Table:
    headings = ("station", "hours", "machines", "device-hours", "cost, $", "GB written", "GB kept", "what")
    rows = [
        (
            one["station"],
            f"{one['hours']:,.2f}",
            f"{one['machines']} x {one['machine']}",
            f"{one['device_hours']:,.1f} {one['device']}-h",
            f"{one['cost']:,.2f}",
            f"{one['written_gb']:,.1f}",
            f"{one['kept_gb']:,.1f}",
            one["note"],
        )
        for one in values["stations"]
    ]
    total = values["total"]
    sizes = f"{total['written_gb']:,.1f}", f"{total['kept_gb']:,.1f}"
    last = ("in all", f"{total['hours']:,.2f}", "", "", f"{total['cost']:,.2f}", *sizes, "one after the other")
    return _table("stations", headings, [*rows, last])


def _scaling(values: Values) -> Table:
    headings = ("step, s", "tokens/s", "efficiency", "hours", "hours, p90", "preempted", "cost, $", "bound by")
    rows = [
        (
            str(run["workers"]),
            f"{run['step_s']:,.3g}",
            f"{run['tokens_per_s']:,.0f}",
            f"{run['efficiency']:.1%}",
            f"{run['hours']:,.2f}",
            f"{run['hours_p90']:,.2f}",
            f"{run['preemptions']:,.1f}",
            f"{run['cost']:,.2f}",
            f"{run['bound']} ({run['parts'][run['bound']] / run['step_s']:.0%})",
        )
        for run in values["scaling"]
    ]
    return _table(f"distill on {values['training']['machine']}, simulated", ("workers", *headings), rows)


def _reference(values: Values) -> Table:
    headings = ("run", "precision", "predicted, h", "published, h", "ratio", "MFU assumed", "MFU implied")
    rows = [
        (
            one["name"],
            one["precision"],
            f"{one['predicted_hours']:,.1f}",
            f"{one['published_hours']:,.0f}",
            f"{one['ratio']:.2f}",
            f"{one['mfu']:.1%}",
            f"{one['implied_mfu']:.1%}",
        )
        for one in values["reference"]
    ]
    return _table("the model against the paper", headings, rows)
