"""Measured results in a model card: scores, size, speed and biases, as Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distilray.evaluation.glue.comparison import Comparison, comparison_of, per_cent, task_score
from distilray.evaluation.glue.table import PUBLISHED, remarks_on
from distilray.report.figures import NOTHING, counted, label, shown, size
from distilray.report.model_index import bias_name, fill_mask_runs, glue_runs
from distilray.report.page import filled_columns
from distilray.report.runs import Runs
from distilray.report.sections.delivery import EFFICIENCY_FILE
from distilray.report.sections.scores import SCORES_FILE, STUDENT, TEACHER

_GLUE_FIGURES = ("score", "95% interval", "majority", "above", "kept", "kept above chance")
_GLUE_HEAD = ("task", *_GLUE_FIGURES, *PUBLISHED, "remarks")

Values = Mapping[str, Any]


def plain(text: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;"))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table without the columns in which no row has anything; nothing without rows."""
    head, rows = filled_columns(head, rows)
    lines = [f"| {' | '.join(map(plain, row))} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(map(plain, head))} |", f"|{'---|' * len(head)}", *lines])


def evaluation(runs: Runs) -> str:
    """The scores of the model, with those of its teacher and of the literature."""
    parts = []
    for run, name, scores in fill_mask_runs(runs):
        described = f"{scores.get('masks', 0):,} masks of {scores.get('examples', 0):,} texts"
        split = "held-out documents of the corpus" if "shards" in run.inputs else "texts with masks"
        models = [each for each in ("teacher", STUDENT) if isinstance(scores.get(each), Mapping)]
        keys = [key for key in scores[name] if key not in ("parameters", "megabytes") and not key.startswith("latency")]
        rows: list[list[object]] = [
            [label(key), *[shown(key, scores[each].get(key)) for each in models]] for key in keys
        ]
        parts += [f"Fill-mask, {described}, {split}:", markdown_table(["", *models], rows)]
    for run, scores in glue_runs(runs):
        teacher = runs.input_of(run, TEACHER)
        compared = comparison_of(scores, None if teacher is None else teacher.values(SCORES_FILE))
        rows = [_glue_row(task, scores, compared) for task in scores["summary"]]
        seeds = sorted({int(by_metric["score"]["seeds"]) for by_metric in scores["summary"].values()})
        described = f"median of {' or '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}, times 100"
        parts += [f"GLUE, dev split, {described}:", markdown_table(_GLUE_HEAD, rows)]
        if compared is not None:
            parts.append(f"The student {plain(compared.summary)}.")
    return "\n\n".join(parts) or "Not measured: no evaluation of this very model is among the runs of this card."


def _glue_row(task: Any, scores: Values, compared: Comparison | None) -> list[object]:
    own, kept = task_score(scores, task), compared.tasks.get(task) if compared else None
    is_left_out = compared is not None and task in compared.left_out
    return [
        task,
        f"{100 * own.score:.1f}",
        _interval(own.interval),
        f"{100 * own.majority:.1f}",
        f"{100 * own.above:+.1f}",
        per_cent(kept.raw, kept.raw_interval) if kept else NOTHING,
        per_cent(kept.above_chance, kept.above_chance_interval) if kept and not is_left_out else NOTHING,
        *[f"{values[task]:.1f}" if task in values else NOTHING for values in PUBLISHED.values()],
        ", ".join(remarks_on(scores, task)) or NOTHING,
    ]


def efficiency(runs: Runs) -> str:
    """Size and speed of the model and of its exported formats."""
    subject, rows = runs.subject, []
    if subject is not None and subject.weights:
        rows.append(["weights on the disk", size(subject.weights["bytes"])])
    if subject is not None and "parameters" in subject.counts:
        rows.append(["parameters", shown("parameters", subject.counts["parameters"])])
    for run, name, scores in fill_mask_runs(runs):
        if scores[name].get("latency_ms"):
            cores = run.record.get("cpus")
            of_cores = f", {counted(cores, 'core')}" if cores else ""
            rows.append([f"{label('latency_ms')}{of_cores}", shown("latency_ms", scores[name]["latency_ms"])])
    exported = [
        f"Exported, each format compared with the model: {plain(run.record['summary'])}."
        for run in runs.of("export_model")
        if runs.about_subject(run, "model")
    ]
    return "\n\n".join([markdown_table(["measure", "value"], rows) or "Not measured.", *exported, *_speeds(runs)])


def _speeds(runs: Runs) -> list[str]:
    """The tables in which the model is measured beside others."""
    parts = []
    for run in runs.of("measure_efficiency"):
        if any(runs.about_subject(run, name) for name in run.inputs):
            measured = run.values(EFFICIENCY_FILE)
            keys = list(dict.fromkeys(key for row in measured["models"].values() for key in row))
            texts = "pairs of sentences" if measured["pairs"] else "texts"
            described = f"{measured['texts']:,} {texts}, {counted(measured['threads'], 'thread')}"
            rows = [[name, *[shown(key, row.get(key)) for key in keys]] for name, row in measured["models"].items()]
            parts += [f"On {plain(measured['cpu'])}, {described}:", markdown_table(["", *map(label, keys)], rows)]
    return parts


def biases(runs: Runs) -> str:
    """Return the biases that a model inherits, and the measured part of them."""
    sources = "corpus and its teacher" if runs.of("distill") else "corpus"
    general = (
        f"The model has learnt from its {sources}, and repeats what it has read about groups of people, also where no "
        "one would want it to. It knows words, not facts: what it fills in may be fluent and false. Use "
        "it for texts of the language and kind of its corpus."
    )
    for run in runs.of("evaluate_bias"):
        name = bias_name(runs, run)
        if name is not None:
            return "\n\n".join([general, *_measured_bias(name, run.values(SCORES_FILE))])
    unmeasured = "Its biases were not measured: no run of `jobs.evaluate_bias` on it is among the runs of this card."
    return f"{general}\n\n{unmeasured}"


def _measured_bias(name: str, scores: Values) -> list[str]:
    parts = []
    if "probes" in scores:
        rows = [
            [probe["text"], ", ".join(f"{a['token']} {a['score']:.3f}" for a in probe["answers"][name])]
            for probe in scores["probes"]["card"]
        ]
        parts += ["The words that it finds most probable:", markdown_table(["text", "most probable"], rows)]
    if "crows_pairs" in scores:
        cells: Values = scores["crows_pairs"]["scores"][name]
        rows = [
            [part, cell["pairs"], _per_cent(cell["share"]), _interval(cell["interval"])] for part, cell in cells.items()
        ]
        parts += [
            "CrowS-Pairs: how often the more stereotyping of two sentences is the more probable one, in per cent; 50 "
            "is no preference.",
            markdown_table(["", "pairs", "share", "95% interval"], rows),
        ]
    if "stereoset" in scores:
        rows = [
            [part, *[shown(key, cell.get(key)) for key in ("lms", "ss", "icat")]]
            for part, cell in scores["stereoset"]["scores"][name].items()
        ]
        parts += ["StereoSet, intrasentence:", markdown_table(["", "LMS", "SS", "ICAT"], rows)]
    return [*parts, *map(plain, scores.get("limits", []))]


def _per_cent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return NOTHING if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"
