"""Exported formats and their cost, sizes, and the provenance of everything."""

from collections.abc import Mapping

from markupsafe import Markup

from distilray.report.blocks import code, heading, join, listing, paragraph, side_by_side, table
from distilray.report.figures import NOTHING, flat, label, shown, size, time
from distilray.report.runs import EFFICIENCY_FILE, WEIGHTS, Run, Runs, Values

PARITY_FILE = "parity_report.json"  # of jobs.export_model
_MODEL_ENDS = (".safetensors", ".onnx")
_SHORT = 12  # characters of a hash that are shown


def export_section(runs: Runs) -> Markup:
    """Return the exported formats next to the model, and the differences of the ONNX graph."""
    return join(*[_export(run, run.values(PARITY_FILE)) for run in runs.of("export_model")])


def efficiency_section(runs: Runs) -> Markup:
    """Return the cost of each model on a CPU, as in the paper's table 3."""
    return join(*[_efficiency(run, run.values(EFFICIENCY_FILE)) for run in runs.of("measure_efficiency")])


def sizes_section(runs: Runs) -> Markup:
    """Return parameters and bytes of every model file."""
    rows = [
        [
            f"{run.name}: {name}",
            shown("parameters", _parameters(runs, run) if name == WEIGHTS else None),
            size(entry["bytes"]),
        ]
        for run in runs.of("distill", "train_teacher", "export_model")
        for name, entry in run.outputs.items()
        if name.endswith(_MODEL_ENDS)
    ]
    return table("Models", ["file", "parameters", "size"], rows)


def _parameters(runs: Runs, run: Run) -> object:
    """Return the parameters of a model; those of a teacher are counted by the distillation that has read it."""
    students = [student for student in runs.of("distill") if student.reads(run)]
    return run.counts.get("parameters") or next((each.counts.get("teacher_parameters") for each in students), None)


def _export(run: Run, report: Values) -> Markup:
    # A completed run has passed the gate, so that these two say nothing.
    formats = {
        name: {key: value for key, value in values.items() if key not in ("refused", "published")}
        for name, values in {"model": report["model"], **report["variants"]}.items()
    }
    facts = dict(flat({key: value for key, value in report.items() if key not in ("model", "variants", "packages")}))
    cases = report.get("parity", {}).get("cases", [])
    return join(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        _by_row("Formats", "format", formats),
        side_by_side(
            "tables",
            _facts("Compared", {key: value for key, value in facts.items() if not _is_list_of_rows(value)}),
            _by_row("Parity of the ONNX graph by shape", "case", {str(n): case for n, case in enumerate(cases, 1)}),
        ),
    )


def _efficiency(run: Run, measured: Values) -> Markup:
    return join(
        heading(run.name),
        _by_row("Cost of each model", "model", measured["models"]),
        _facts("Measured", {key: value for key, value in measured.items() if key != "models"}),
    )


def provenance_section(runs: Runs) -> Markup:
    """Return hashes, inputs, code, versions and time of each run, and warn of runs that do not belong together."""
    rows = [
        [
            f"{run.name}: {run.job}",
            code(run.content_hash[:_SHORT]),
            code(run.config_hash[:_SHORT]),
            code(str(run.record.get("git_commit") or NOTHING)[:_SHORT]),
            str(run.record.get("finished", NOTHING)).replace("T", " ").replace("+00:00", " UTC"),
            time(run.record["wall_s"]),
            shown("cpus", run.record.get("cpus")),
        ]
        for run in runs
    ]
    strangers = unknown_inputs(runs)
    warning = "These runs read runs that are not in this report, so they may not belong to the others:"
    return join(
        Markup('<div class="warning">{}{}</div>\n').format(warning, listing(strangers)) if strangers else "",
        table("Runs", ["run", "content", "config", "code", "finished", "wall time", "CPUs"], rows),
        paragraph(
            "A content hash covers settings, inputs and results of a run, through the whole line; a config hash the "
            "settings alone. Both are shortened. The wall time is that of the process that finished the run."
        ),
        table("Inputs", ["run", "input", "known by", "made by"], _inputs(runs)),
        _versions(runs),
    )


def unknown_inputs(runs: Runs) -> list[str]:
    """Name the inputs that are not in the report although other runs of the same jobs are."""
    names = {"corpus": "build_corpus", "shards": "encode_corpus", "teacher": "train_teacher", "student": "distill"}
    unknown = []
    for run in runs:
        for name, entry in run.inputs.items():
            job, content_hash = names.get(name.rpartition(".")[2]), entry.get("content_hash")
            if job and content_hash and runs.of(job) and runs.with_hash(content_hash) is None:
                read = f"{name} than the one here: {content_hash[:_SHORT]}"
                unknown.append(f"{run.name} ({run.job}) has read another {read}")
    return unknown


def _inputs(runs: Runs) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in runs:
        for name, entry in run.inputs.items():
            content_hash = entry.get("content_hash")
            source = runs.with_hash(content_hash)
            by = f"{source.name}: {source.job}" if source else "a run that is not here" if content_hash else "a file"
            known = code(str(content_hash or entry.get("fingerprint", ""))[:_SHORT])
            rows.append([f"{run.name}: {run.job}", name, known, by])
    return rows


def _versions(runs: Runs) -> Markup:
    """Return a column for each set of versions, since most reports have one."""
    sets: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        sets.setdefault(tuple(sorted(run.record.get("versions", {}).items())), []).append(run.name)
    packages = sorted({name for versions in sets for name, _ in versions})
    heads = [", ".join(names) if len(sets) > 1 else "all runs" for names in sets.values()]
    rows = [[name, *[dict(versions).get(name, NOTHING) for versions in sets]] for name in packages]
    return table("Versions", ["", *heads], rows)


def _facts(caption: str, facts: Values) -> Markup:
    return table(caption, ["", ""], [[label(key), shown(key, value)] for key, value in facts.items()])


def _by_row(caption: str, first: str, named: Mapping[str, Values]) -> Markup:
    """Return a row for each name, with a column for each key that one of them has."""
    leaves = {name: dict(flat(values)) for name, values in named.items()}
    keys = list(dict.fromkeys(key for values in leaves.values() for key in values))
    rows = [[name, *[_value(key, values.get(key)) for key in keys]] for name, values in leaves.items()]
    return table(caption, [first, *map(label, keys)], rows)


def _value(key: str, value: object) -> object:
    return code(str(value)[:_SHORT]) if key.endswith("sha256") and value else shown(key, value)


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
