"""Sections on exported formats, efficiency, sizes and provenance."""

from collections.abc import Mapping

from markupsafe import Markup

from distilray.report.blocks import code, heading, join, listing, paragraph, side_by_side, table
from distilray.report.formatting import NOTHING, flatten, format_duration, format_size, format_value, label
from distilray.report.runs import EFFICIENCY_FILE, WEIGHTS, Run, Runs, Values

PARITY_FILE = "parity_report.json"  # of jobs.export_model
_MODEL_SUFFIXES = (".safetensors", ".onnx")
_HASH_LENGTH = 12  # characters shown


def export_section(runs: Runs) -> Markup:
    """Return the exported formats compared with the model, and the deviations of the ONNX graph."""
    return join(*[_export(run, run.read_json(PARITY_FILE)) for run in runs.by_job("export_model")])


def efficiency_section(runs: Runs) -> Markup:
    """Return size and speed of each model on a CPU, as in table 3 of the DistilBERT paper."""
    return join(*[_efficiency(run, run.read_json(EFFICIENCY_FILE)) for run in runs.by_job("measure_efficiency")])


def sizes_section(runs: Runs) -> Markup:
    """Return parameters and file size of each model file."""
    rows = [
        [
            f"{run.name}: {name}",
            format_value("parameters", _parameters(runs, run) if name == WEIGHTS else None),
            format_size(entry["bytes"]),
        ]
        for run in runs.by_job("distill", "train_teacher", "export_model")
        for name, entry in run.outputs.items()
        if name.endswith(_MODEL_SUFFIXES)
    ]
    return table("Models", ["file", "parameters", "size"], rows)


def _parameters(runs: Runs, run: Run) -> object:
    """Return the number of parameters of a model; for a teacher, as recorded by the distillation that used it."""
    students = [student for student in runs.by_job("distill") if student.has_input(run)]
    return run.counts.get("parameters") or next(
        (student.counts.get("teacher_parameters") for student in students), None
    )


def _export(run: Run, report: Values) -> Markup:
    # `refused` and `published` are redundant, because a completed run has passed all checks.
    formats = {
        name: {key: value for key, value in values.items() if key not in ("refused", "published")}
        for name, values in {"model": report["model"], **report["variants"]}.items()
    }
    facts = dict(flatten({key: value for key, value in report.items() if key not in ("model", "variants", "packages")}))
    cases = report.get("parity", {}).get("cases", [])
    return join(
        heading(run.name),
        paragraph("Result: ", run.record["summary"], "."),
        _by_row("Formats", "format", formats),
        side_by_side(
            "tables",
            _facts("Comparison", {key: value for key, value in facts.items() if not _is_list_of_rows(value)}),
            _by_row("Parity of the ONNX graph by shape", "case", {str(n): case for n, case in enumerate(cases, 1)}),
        ),
    )


def _efficiency(run: Run, results: Values) -> Markup:
    return join(
        heading(run.name),
        _by_row("Size and speed", "model", results["models"]),
        _facts("Setup", {key: value for key, value in results.items() if key != "models"}),
    )


def provenance_section(runs: Runs) -> Markup:
    """Return hashes, inputs, code, versions and time of each run, and a warning if runs do not belong together."""
    rows = [
        [
            f"{run.name}: {run.job}",
            code(run.content_hash[:_HASH_LENGTH]),
            code(run.config_hash[:_HASH_LENGTH]),
            code(str(run.record.get("git_commit") or NOTHING)[:_HASH_LENGTH]),
            str(run.record.get("finished", NOTHING)).replace("T", " ").replace("+00:00", " UTC"),
            format_duration(run.record["wall_s"]),
            format_value("cpus", run.record.get("cpus")),
        ]
        for run in runs
    ]
    unknown = unknown_inputs(runs)
    warning = "These runs have inputs that are not in this report, so they may not belong to the others:"
    return join(
        Markup('<div class="warning">{}{}</div>\n').format(warning, listing(unknown)) if unknown else "",
        table("Runs", ["run", "content", "config", "code", "finished", "wall time", "CPUs"], rows),
        paragraph(
            "The content hash of a run covers its settings, its results and the content hashes of its inputs; the "
            "config hash covers only the settings. Both are shortened. The wall time is that of the process that "
            "finished the run."
        ),
        table("Inputs", ["run", "input", "hash", "origin"], _inputs(runs)),
        _versions(runs),
    )


def unknown_inputs(runs: Runs) -> list[str]:
    """Describe inputs that are not in the report although it contains another run of the same job."""
    job_of_input = {
        "corpus": "build_corpus",
        "shards": "encode_corpus",
        "teacher": "train_teacher",
        "student": "distill",
    }
    unknown = []
    for run in runs:
        for name, entry in run.inputs.items():
            job, content_hash = job_of_input.get(name.rpartition(".")[2]), entry.get("content_hash")
            if job and content_hash and runs.by_job(job) and runs.with_hash(content_hash) is None:
                unknown.append(f"{run.name} ({run.job}) used a different {name}: {content_hash[:_HASH_LENGTH]}")
    return unknown


def _inputs(runs: Runs) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in runs:
        for name, entry in run.inputs.items():
            content_hash = entry.get("content_hash")
            source = runs.with_hash(content_hash)
            origin = f"{source.name}: {source.job}" if source else "another run" if content_hash else "file"
            short_hash = code(str(content_hash or entry.get("fingerprint", ""))[:_HASH_LENGTH])
            rows.append([f"{run.name}: {run.job}", name, short_hash, origin])
    return rows


def _versions(runs: Runs) -> Markup:
    """Return a table with a column for each distinct set of versions, since most reports have only one."""
    sets: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        sets.setdefault(tuple(sorted(run.record.get("versions", {}).items())), []).append(run.name)
    packages = sorted({name for versions in sets for name, _ in versions})
    headings = [", ".join(names) if len(sets) > 1 else "all runs" for names in sets.values()]
    rows = [[name, *[dict(versions).get(name, NOTHING) for versions in sets]] for name in packages]
    return table("Versions", ["", *headings], rows)


def _facts(caption: str, facts: Values) -> Markup:
    return table(caption, ["", ""], [[label(key), format_value(key, value)] for key, value in facts.items()])


def _by_row(caption: str, first: str, named: Mapping[str, Values]) -> Markup:
    """Return a table with a row per name and a column per key."""
    leaves = {name: dict(flatten(values)) for name, values in named.items()}
    keys = list(dict.fromkeys(key for values in leaves.values() for key in values))
    rows = [[name, *[_value(key, values.get(key)) for key in keys]] for name, values in leaves.items()]
    return table(caption, [first, *map(label, keys)], rows)


def _value(key: str, value: object) -> object:
    return code(str(value)[:_HASH_LENGTH]) if key.endswith("sha256") and value else format_value(key, value)


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
