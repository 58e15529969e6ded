"""Writes the report of a line and the model card from run folders; names what is missing and the job that writes it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from distilray.config.report import ReportConfig
from distilray.errors import InputError
from distilray.evaluation.report.card import model_card
from distilray.evaluation.report.figures import counted, time
from distilray.evaluation.report.lead import key_figures
from distilray.evaluation.report.page import Markup, code, document, listing, markup, paragraph, section
from distilray.evaluation.report.runs import Run, Runs, complete_paths, read_runs
from distilray.evaluation.report.sections.claim import claim_lines, claim_section, claim_table
from distilray.evaluation.report.sections.data import corpus_section, masking_section, vocabulary_section
from distilray.evaluation.report.sections.delivery import (
    efficiency_section,
    export_section,
    provenance_section,
    sizes_section,
)
from distilray.evaluation.report.sections.scores import bias_section, fill_mask_section, glue_section, tuning_section
from distilray.evaluation.report.sections.training import distillation_section, teacher_section
from distilray.evaluation.report.sections.variants import variants, variants_section, variants_table
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder

T = TypeVar("T")

REPORT_FILE, CARD_FILE = "report.html", "README.md"


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        jobs: of whose runs it is made; one is enough. The first is named where there is none.
    """

    anchor: str
    title: str
    jobs: Sequence[str]
    body: Callable[[Runs], Markup]


# What is made of several runs, shown where these are there.
COMPARISONS = (
    Section("claim", "The claim", ("distill",), claim_section),
    Section("variants", "Variants of the student", ("distill",), variants_section),
)
SECTIONS = (
    Section("corpus", "Corpus", ("build_corpus",), corpus_section),
    Section("vocabulary", "Vocabulary", ("encode_corpus", "train_tokenizer"), vocabulary_section),
    Section("masking", "Masking check", ("encode_corpus",), masking_section),
    Section("teacher", "Teacher", ("train_teacher",), teacher_section),
    Section("distillation", "Distillation", ("distill",), distillation_section),
    Section("fill-mask", "Fill-mask evaluation", ("evaluate_fill_mask",), fill_mask_section),
    Section("glue", "GLUE", ("evaluate_glue",), glue_section),
    Section("tuning", "Search of fine-tuning settings", ("search_glue",), tuning_section),
    Section("bias", "Bias", ("evaluate_bias",), bias_section),
    Section("export", "Export", ("export_model",), export_section),
    Section("efficiency", "Efficiency", ("measure_efficiency",), efficiency_section),
    Section("sizes", "Sizes", ("distill", "train_teacher", "export_model"), sizes_section),
)


def plan_report(config: ReportConfig) -> Mapping[str, object]:
    """Validates the runs and says what the report would hold."""
    runs = read_runs(complete_paths(config))
    plan: dict[str, object] = {f"run {run.name}": f"{run.job}, {run.record['summary']}" for run in runs}
    left_out = [path for path in config.optional_paths if path not in complete_paths(config)]
    return {
        **plan,
        "not complete": ", ".join(left_out) or "none",
        "missing": ", ".join(missing_jobs(runs)) or "nothing",
    }


def write_report(config: ReportConfig, folder: RunFolder) -> Outcome:
    """Writes `report.html` and `README.md`."""
    runs = read_runs(complete_paths(config))
    files = {
        REPORT_FILE: _read(runs, lambda: report_page(runs, config.model_name)),
        CARD_FILE: _read(runs, lambda: model_card(runs, config)),
    }
    for name, text in files.items():
        storage.write_bytes(folder.path(name), text.encode())
    absent = missing_jobs(runs)
    told = f"; missing: {', '.join(absent)}" if absent else ""
    counts = {"runs": len(runs), "missing": absent}
    return Outcome(f"{', '.join(files)} of {len(runs)} runs{told}", counts, folder.describe_outputs(files))


def show_report(folder: RunFolder) -> None:
    """Prints the student beside its teacher and beside other students, as far as the runs of the report tell."""
    assert isinstance(folder.config, ReportConfig)
    runs = read_runs(complete_paths(folder.config))
    console = Console(width=None if os.isatty(1) else 180)
    if lines := claim_lines(runs):
        console.print(claim_table(lines))
    if len(found := variants(runs)) > 1:
        console.print(variants_table(found))


def missing_jobs(runs: Runs) -> list[str]:
    """The jobs that would write what the report cannot show."""
    return list(dict.fromkeys(part.jobs[0] for part in SECTIONS if not runs.of(*part.jobs)))


def report_page(runs: Runs, name: str) -> str:
    """The report as a page that needs nothing but itself.

    Raises:
        InputError: a file of a run is missing, torn, or of another version.
    """
    parts = [(part, body) for part in (*COMPARISONS, *SECTIONS) if runs.of(*part.jobs) and (body := _body(part, runs))]
    sections = [section(part.anchor, part.title, body) for part, body in parts]
    sections += [section("missing", "What is missing", _missing(runs)) if missing_jobs(runs) else Markup("")]
    sections += [section("provenance", "Provenance", provenance_section(runs))]
    contents = [(part.anchor, part.title) for part, _ in parts]
    contents += [("missing", "What is missing")] if missing_jobs(runs) else []
    contents += [("provenance", "Provenance")]
    spent = time(sum(run.record["wall_s"] for run in runs))
    last = max(str(run.record.get("finished", "")) for run in runs)[:10]
    lead = markup(
        paragraph(f"{counted(len(runs), 'run')}, the last of {last}; {spent} of wall time in all."), key_figures(runs)
    )
    return document(f"{name}: report", lead, contents, markup(*sections))


def _read(runs: Iterable[Run], made: Callable[[], T]) -> T:
    """What is made of some runs; a key that is not there was not written by this version."""
    try:
        return made()
    except KeyError as error:
        names = ", ".join(run.uri for run in runs)
        raise InputError(f"{names}: no {error} in its files, which this version needs; run the job again") from error


def _body(part: Section, runs: Runs) -> Markup:
    return _read(runs.of(*part.jobs), lambda: part.body(runs))


def _missing(runs: Runs) -> Markup:
    rows = [
        markup(part.title, ": written by ", code(f"python -m jobs.{part.jobs[0]} --recipe RECIPE"))
        for part in SECTIONS
        if not runs.of(*part.jobs)
    ]
    advice = "No run of this report holds these. Run the job, add its folder to run_paths, and write the report again."
    return markup(paragraph(advice), listing(rows))
