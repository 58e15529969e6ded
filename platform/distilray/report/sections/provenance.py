"""Section on provenance: hashes, inputs, code and package versions of the runs."""

from markupsafe import Markup

from distilray.report.blocks import code, join, listing, paragraph, table
from distilray.report.formatting import NOTHING, format_duration, format_value, short_hash
from distilray.report.runs import Runs


def provenance_section(runs: Runs) -> Markup:
    """Return hashes, inputs, code, versions and time of each run, and a warning if runs do not belong together."""
    rows = [
        [
            f"{run.name}: {run.job}",
            code(short_hash(run.content_hash)),
            code(short_hash(run.config_hash)),
            code(short_hash(run.record.get("git_commit") or NOTHING)),
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
                unknown.append(f"{run.name} ({run.job}) used a different {name}: {short_hash(content_hash)}")
    return unknown


def _inputs(runs: Runs) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in runs:
        for name, entry in run.inputs.items():
            content_hash = entry.get("content_hash")
            source = runs.with_hash(content_hash)
            origin = f"{source.name}: {source.job}" if source else "another run" if content_hash else "file"
            shown_hash = code(short_hash(content_hash or entry.get("fingerprint", "")))
            rows.append([f"{run.name}: {run.job}", name, shown_hash, origin])
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
