"""What is handed over: exported formats and what they cost, sizes, and where everything comes from."""

from collections.abc import Mapping
from typing import Any

from distilray.report.figures import NOTHING, flat, label, shown, size, time
from distilray.report.page import Markup, beside, code, heading, listing, markup, paragraph, table
from distilray.report.runs import WEIGHTS, Run, Runs

PARITY_FILE, EFFICIENCY_FILE = "parity_report.json", "efficiency.json"  # of export_model, of measure_efficiency
_MODEL_ENDS = (".safetensors", ".onnx")
_SHORT = 12  # characters of a hash that are shown

Values = Mapping[str, Any]


def export_section(runs: Runs) -> Markup:
    """The exported formats beside the model, and how far the ONNX graph lies from it."""
    return markup(*[_export(run, run.values(PARITY_FILE)) for run in runs.of("export_model")])


def efficiency_section(runs: Runs) -> Markup:
    """What each model costs on a CPU, in the manner of the paper's table 3."""
    return markup(*[_efficiency(run, run.values(EFFICIENCY_FILE)) for run in runs.of("measure_efficiency")])


def sizes_section(runs: Runs) -> Markup:
    """Parameters and bytes of every file that is handed over."""
    rows: list[list[object]] = []
    for run in runs.of("distill", "train_teacher", "export_model"):
        for name, entry in run.manifest["content"]["outputs"].items():
            if name.endswith(_MODEL_ENDS):
                parameters = _parameters(runs, run) if name == WEIGHTS else None
                rows.append([f"{run.name}: {name}", shown("parameters", parameters), size(entry["bytes"])])
    return table("Models", ["file", "parameters", "size"], rows)


def _parameters(runs: Runs, run: Run) -> object:
    """Of a model; a teacher's are counted by the distillation that has read it."""
    students = [each for each in runs.of("distill") if each.reads(run)]
    return run.counts.get("parameters") or next((each.counts.get("teacher_parameters") for each in students), None)


def _export(run: Run, report: Values) -> Markup:
    # The gate has let them pass, or there would be no complete run.
    formats = {
        name: {key: value for key, value in found.items() if key not in ("refused", "published")}
        for name, found in {"model": report["model"], **report["variants"]}.items()
    }
    facts = {key: value for key, value in report.items() if key not in ("model", "variants", "packages")}
    leaves = {key: value for key, value in flat(facts) if not _is_list_of_rows(value)}
    cases = report.get("parity", {}).get("cases", [])
    return markup(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        _by_row("Formats", "format", formats),
        beside(
            table("Compared", ["", ""], [[label(key), shown(key, value)] for key, value in leaves.items()]),
            _by_row("Parity of the ONNX graph by shape", "case", {str(n): case for n, case in enumerate(cases, 1)}),
        ),
    )


def _efficiency(run: Run, found: Values) -> Markup:
    facts = [[label(key), shown(key, value)] for key, value in found.items() if key != "models"]
    return markup(
        heading(run.name),
        _by_row("Cost of each model", "model", found["models"]),
        table("Measured", ["", ""], facts),
    )


def provenance_section(runs: Runs) -> Markup:
    """Each run with its hashes, inputs, code, versions and time; and whether the runs belong together."""
    rows = [
        [
            markup(run.name, ": ", run.job),
            code(run.content_hash[:_SHORT]),
            code(run.config_hash[:_SHORT]),
            code(str(run.record.get("git_commit") or NOTHING)[:_SHORT]),
            str(run.record.get("finished", NOTHING)).replace("T", " ").replace("+00:00", " UTC"),
            time(run.record["wall_s"]),
            shown("cpus", run.record.get("cpus")),
        ]
        for run in runs
    ]
    head = ["run", "content", "config", "code", "finished", "wall time", "CPUs"]
    strangers = unknown_inputs(runs)
    warning = Markup("")
    if strangers:
        told = markup("These runs read runs that are not in this report, so they may not belong to the others:")
        warning = Markup(f'<div class="warning">{told}{listing(strangers)}</div>\n')
    return markup(
        warning,
        table("Runs", head, rows),
        paragraph(
            "A content hash covers settings, inputs and results of a run, through the whole line; a config hash the "
            "settings alone. Both are shortened. The wall time is that of the process that finished the run."
        ),
        table("Inputs", ["run", "input", "known by", "made by"], _inputs(runs)),
        _versions(runs),
    )


def unknown_inputs(runs: Runs) -> list[str]:
    """Inputs that are runs of the kinds in the report, but not the runs in the report."""
    names = {"corpus": "build_corpus", "shards": "encode_corpus", "teacher": "train_teacher", "student": "distill"}
    found = []
    for run in runs:
        for name, entry in run.inputs.items():
            job = names.get(name.rpartition(".")[2])
            if job and "content_hash" in entry and runs.of(job) and runs.made(entry["content_hash"]) is None:
                found.append(f"{run.name} ({run.job}) has read another {name} than the one here: "
                             f"{entry['content_hash'][:_SHORT]}")  # fmt: skip
    return found


def _inputs(runs: Runs) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in runs:
        for name, entry in run.inputs.items():
            made = runs.made(entry.get("content_hash"))
            known = entry.get("content_hash") or entry.get("fingerprint", "")
            by = (
                f"{made.name}: {made.job}"
                if made
                else "a run that is not here"
                if "content_hash" in entry
                else "a file"
            )
            rows.append([f"{run.name}: {run.job}", name, code(str(known)[:_SHORT]), by])
    return rows


def _versions(runs: Runs) -> Markup:
    """A column for each set of versions, since most reports have one."""
    sets: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        sets.setdefault(tuple(sorted(run.record.get("versions", {}).items())), []).append(run)
    packages = sorted({name for versions in sets for name, _ in versions})
    heads = [", ".join(run.name for run in of_set) if len(sets) > 1 else "all runs" for of_set in sets.values()]
    rows = [[name, *[dict(versions).get(name, NOTHING) for versions in sets]] for name in packages]
    return table("Versions", ["", *heads], rows)


def _by_row(caption: str, first: str, named: Mapping[str, Values]) -> Markup:
    """A row for each name, a column for each key that one of them has."""
    found = {name: dict(flat(values)) for name, values in named.items()}
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    rows = [[name, *[_value(key, values.get(key)) for key in keys]] for name, values in found.items()]
    return table(caption, [first, *map(label, keys)], rows)


def _value(key: str, value: object) -> object:
    return code(str(value)[:_SHORT]) if key.endswith("sha256") and value else shown(key, value)


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
