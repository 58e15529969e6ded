"""Job that writes the report page, from the verdict to the settings, and the model card."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup
from rich.console import Console

from distilray.config.report import ReportConfig
from distilray.errors import InputError
from distilray.report.blocks import Section, join, paragraph, render_page
from distilray.report.formatting import format_duration, pluralize
from distilray.report.model_card import model_card
from distilray.report.runs import Run, Runs, completed_run_paths, read_runs
from distilray.report.sections.claim import claim_chart, claim_rows, claim_section, claim_table, verdict
from distilray.report.sections.exports import efficiency_section, export_section
from distilray.report.sections.model_quality import (
    answers_section,
    bias_section,
    fill_mask_section,
    glue_section,
    tuning_section,
)
from distilray.report.sections.provenance import provenance_section
from distilray.report.sections.training_curves import distillation_section, teacher_section
from distilray.report.sections.training_data import corpus_section, masking_section, vocabulary_section
from distilray.report.sections.variants import find_variants, variants_section, variants_table
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder

T = TypeVar("T")

REPORT_FILE, CARD_FILE = "report.html", "README.md"


@dataclass(frozen=True)
class SectionSpec:
    """A section of the report.

    Attributes:
        jobs: jobs whose runs the section shows; without such a run, the first of them is named as missing.
    """

    anchor: str
    title: str
    jobs: Sequence[str]
    body: Callable[[Runs], Markup]


# Scores come before settings.
SECTIONS = (
    SectionSpec("claim", "Quality, size and speed", ("distill",), claim_section),
    SectionSpec("answers", "What the models answer", ("evaluate_fill_mask",), answers_section),
    SectionSpec("fill-mask", "Fill-mask evaluation", ("evaluate_fill_mask",), fill_mask_section),
    SectionSpec("glue", "GLUE", ("evaluate_glue",), glue_section),
    SectionSpec("tuning", "Hyperparameter search", ("search_glue",), tuning_section),
    SectionSpec("bias", "Bias", ("evaluate_bias",), bias_section),
    SectionSpec("export", "Export", ("export_model",), export_section),
    SectionSpec("efficiency", "Efficiency", ("measure_efficiency",), efficiency_section),
    SectionSpec("variants", "Variants of the student", ("distill",), variants_section),
    SectionSpec("distillation", "Distillation", ("distill",), distillation_section),
    SectionSpec("teacher", "Teacher", ("train_teacher",), teacher_section),
    SectionSpec("corpus", "Corpus", ("build_corpus",), corpus_section),
    SectionSpec("vocabulary", "Vocabulary", ("encode_corpus", "train_tokenizer"), vocabulary_section),
    SectionSpec("masking", "Masking check", ("encode_corpus",), masking_section),
)


def plan_report(config: ReportConfig) -> Mapping[str, object]:
    """Validate the runs and return the plan of `write_report`."""
    runs = read_runs(completed_run_paths(config))
    incomplete = [path for path in config.optional_paths if path not in completed_run_paths(config)]
    return {
        **{f"run {run.name}": f"{run.job}, {run.record['summary']}" for run in runs},
        "not complete": ", ".join(incomplete) or "none",
        "missing": ", ".join(missing_jobs(runs)) or "nothing",
    }


def write_report(config: ReportConfig, folder: RunFolder) -> Outcome:
    """Write `report.html` and `README.md`."""
    runs = read_runs(completed_run_paths(config))
    files = {
        REPORT_FILE: _checked(runs, lambda: report_page(runs, config.model_name)),
        CARD_FILE: _checked(runs, lambda: model_card(runs, config)),
    }
    for name, text in files.items():
        storage.write_bytes(folder.path(name), text.encode())
    missing = missing_jobs(runs)
    note = f"; missing: {', '.join(missing)}" if missing else ""
    counts = {"runs": len(runs), "missing": missing}
    return Outcome(f"{', '.join(files)} of {len(runs)} runs{note}", counts, folder.describe_outputs(files))


def show_report(folder: RunFolder) -> None:
    """Print the comparisons of the student with its teacher and with its variants, if the report has these runs."""
    assert isinstance(folder.config, ReportConfig)
    runs = read_runs(completed_run_paths(folder.config))
    console = Console(width=None if os.isatty(1) else 180)
    if rows := claim_rows(runs):
        console.print(claim_table(rows))
    if len(variants := find_variants(runs)) > 1:
        console.print(variants_table(variants))


def missing_jobs(runs: Runs) -> list[str]:
    """Return a job for each section without runs."""
    return list(dict.fromkeys(spec.jobs[0] for spec in SECTIONS if not runs.by_job(*spec.jobs)))


def report_page(runs: Runs, name: str) -> str:
    """Return the report as one HTML page.

    Raises:
        InputError: a file of a run is missing, damaged or from an incompatible version.
    """
    sections = [Section(spec.anchor, spec.title, _body(spec, runs)) for spec in SECTIONS]
    sections.append(Section("provenance", "Provenance", provenance_section(runs)))
    total_time = format_duration(sum(run.record["wall_s"] for run in runs))
    last_day = max(str(run.record.get("finished", "")) for run in runs)[:10]
    about = paragraph(f"{pluralize(len(runs), 'run')}, the last finished on {last_day}; total wall time {total_time}.")
    return render_page(
        f"{name}: report",
        join(claim_chart(runs), about),
        [section for section in sections if section.body],
        headline=verdict(runs, name),
    )


def _checked(runs: Iterable[Run], make: Callable[[], T]) -> T:
    """Return the result of `make`; raise an `InputError` for a key that files of an older version lack."""
    try:
        return make()
    except KeyError as error:
        names = ", ".join(run.uri for run in runs)
        raise InputError(f"{names}: no {error} in its files, which this version requires; run the job again") from error


def _body(spec: SectionSpec, runs: Runs) -> Markup:
    shown = runs.by_job(*spec.jobs)
    return _checked(shown, lambda: spec.body(runs)) if shown else Markup("")
