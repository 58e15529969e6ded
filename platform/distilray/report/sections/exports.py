"""Sections on exported formats and efficiency."""

from collections.abc import Mapping

from markupsafe import Markup

from distilray.report.blocks import code, heading, join, paragraph, side_by_side, table
from distilray.report.formatting import flatten, format_value, label, short_hash
from distilray.report.runs import EFFICIENCY_FILE, Run, Runs, Values

PARITY_FILE = "parity_report.json"  # of jobs.export_model


def export_section(runs: Runs) -> Markup:
    """Return the exported formats compared with the model, and the deviations of the ONNX graph."""
    return join(*[_export(runs.title(run), run, run.read_json(PARITY_FILE)) for run in runs.by_job("export_model")])


def efficiency_section(runs: Runs) -> Markup:
    """Return size and speed of each model on a CPU, as in table 3 of the DistilBERT paper."""
    return join(
        *[_efficiency(runs.title(run), run.read_json(EFFICIENCY_FILE)) for run in runs.by_job("measure_efficiency")]
    )


def _export(title: str, run: Run, report: Values) -> Markup:
    # `refused` and `published` are redundant, because a completed run has passed all checks.
    formats = {
        name: {key: value for key, value in values.items() if key not in ("refused", "published")}
        for name, values in {"model": report["model"], **report["variants"]}.items()
    }
    facts = dict(flatten({key: value for key, value in report.items() if key not in ("model", "variants", "packages")}))
    cases = report.get("parity", {}).get("cases", [])
    return join(
        heading(title),
        paragraph("Result: ", run.record["summary"], "."),
        _by_row("Formats", "format", formats),
        side_by_side(
            "tables",
            _facts("Comparison", {key: value for key, value in facts.items() if not _is_list_of_rows(value)}),
            _by_row("Parity of the ONNX graph by shape", "case", {str(n): case for n, case in enumerate(cases, 1)}),
        ),
    )


def _efficiency(title: str, results: Values) -> Markup:
    return join(
        heading(title),
        _by_row("Size and speed", "model", results["models"]),
        _facts("Setup", {key: value for key, value in results.items() if key != "models"}),
    )


def _facts(caption: str, facts: Values) -> Markup:
    return table(caption, ["", ""], [[label(key), format_value(key, value)] for key, value in facts.items()])


def _by_row(caption: str, first: str, named: Mapping[str, Values]) -> Markup:
    """Return a table with a row per name and a column per key."""
    leaves = {name: dict(flatten(values)) for name, values in named.items()}
    keys = list(dict.fromkeys(key for values in leaves.values() for key in values))
    rows = [[name, *[_value(key, values.get(key)) for key in keys]] for name, values in leaves.items()]
    return table(caption, [first, *map(label, keys)], rows)


def _value(key: str, value: object) -> object:
    return code(short_hash(value)) if key.endswith("sha256") and value else format_value(key, value)


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
