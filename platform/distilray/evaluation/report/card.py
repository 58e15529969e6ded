"""The model card: a README.md with the hub's metadata, from what the runs say and nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from distilray.config.report import ReportConfig
from distilray.evaluation.glue.table import PUBLISHED
from distilray.evaluation.report.figures import NOTHING, label, shown, size, time
from distilray.evaluation.report.model_index import (
    base_model,
    bias_name,
    fill_mask_runs,
    glue_runs,
    metadata,
)
from distilray.evaluation.report.runs import Run, Runs
from distilray.evaluation.report.sections.delivery import EFFICIENCY_FILE
from distilray.evaluation.report.sections.scores import SCORES_FILE, STUDENT
from distilray.evaluation.report.sections.training import TERMS, loss_weights

# Also in docs/notebooks/fill_mask.ipynb; a test compares them.
SAMPLE = """from transformers import pipeline

fill = pipeline("fill-mask", model=MODEL_DIR)
for candidate in fill("Paris is the [MASK] of France.", top_k=3):
    print(f"{candidate['score']:.3f} {candidate['sequence']}")"""
_CURL = """curl -s -H 'content-type: application/json' \\
    -d '{"input_data": ["Paris is the [MASK] of France."]}' http://127.0.0.1:8000/score"""

Values = Mapping[str, Any]


def model_card(runs: Runs, config: ReportConfig) -> str:
    """The card of the model that the runs are about, as Markdown with metadata."""
    head = yaml.safe_dump(metadata(runs, config), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {_plain(config.model_name)}",
        _what(runs, config),
        "## How to use",
        _use(),
        "## How it was trained",
        _training(runs, config),
        "## Evaluation",
        _evaluation(runs),
        "## Size and speed",
        _efficiency(runs),
        "## Limitations and biases",
        _bias(runs),
        "## Provenance",
        _provenance(runs),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _plain(text: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;"))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(map(_plain, head))} |", f"|{'---|' * len(head)}", *lines])


def _what(runs: Runs, config: ReportConfig) -> str:
    subject, base = runs.subject, config.base_model or base_model(runs)
    of_base = f" ({_plain(base)})" if base else ""
    if subject is None:
        return (
            "A model for filling masks. The runs of this card hold no training, so it says nothing of how it was made."
        )
    if subject.job == "train_teacher":
        return f"A BERT{of_base}, trained further to fill masks."
    own, teacher = subject.counts.get("parameters"), subject.counts.get("teacher_parameters")
    share = (
        f" It has {own / 1e6:,.1f} million parameters, {own / teacher:.0%} of its teacher's." if own and teacher else ""
    )
    return (
        f"A DistilBERT with half the layers of its teacher, a BERT{of_base}, initialised from it and trained to answer "
        f"like it.{share} It fills masks in texts, and may be fine-tuned for other tasks."
    )


def _use() -> str:
    return (
        "`MODEL_DIR` is the folder of this card's model, or its id on a hub.\n\n"
        f"```python\n{SAMPLE}\n```\n\nOver HTTP, where distilray serves it:\n\n```sh\n{_CURL}\n```"
    )


def _training(runs: Runs, config: ReportConfig) -> str:
    subject = runs.subject
    parts = [_data(runs)]
    if subject is not None:
        optimizer: Values = subject.config.get("optimizer", {})
        parts.append(
            f"{subject.counts['steps']:,} steps of {subject.config.get('batch_size'):,} examples with AdamW, highest "
            f"learning rate {shown('learning_rate', optimizer.get('learning_rate'))}, precision "
            f"{subject.config.get('precision')}, seed {subject.config.get('seed')}, on {_workers(subject)}. "
            f"The process that finished it took {time(subject.record['wall_s'])}."
        )
        weights = loss_weights(subject)
        temperature = subject.config.get("losses", {}).get("temperature")
        rows = [[TERMS[term], shown("weight", weight)] for term, weight in weights.items()]
        if rows:
            parts.append(f"The loss is the weighted sum of these terms, at temperature {temperature}:")
            parts.append(_table(["loss", "weight"], rows))
    for run in [run for run in runs.of("train_teacher") if run is not subject]:
        steps = f"{run.counts['steps']:,} steps of {run.config.get('batch_size'):,} examples"
        parts.append(f"The teacher was trained to fill masks on the same kind of examples, for {steps}.")
    return "\n\n".join(part for part in parts if part)


def _workers(run: Run) -> str:
    scaling: Values = run.recipe.get("scaling", {})
    return f"{scaling.get('num_workers', 1)} worker(s) with a {'GPU' if scaling.get('use_gpu') else 'CPU'} each"


def _data(runs: Runs) -> str:
    told = []
    for run in runs.of("build_corpus"):
        sources = [f"{each.get('name')} ({each.get('licence')})" for each in run.config.get("sources", [])]
        told.append(
            f"Corpus: {run.counts['documents']:,} documents, {run.counts.get('words', 0):,} words, "
            f"from {_plain(', '.join(sources)) or 'unnamed sources'}."
        )
    for run in runs.of("encode_corpus"):
        train: Values = run.counts.get("train", {})
        masking: Values = run.config.get("masking", {})
        told.append(
            f"Examples: {train.get('examples', 0):,} with {train.get('tokens', 0):,} tokens, "
            f"{run.config.get('max_seq_length')} at most in each, {masking.get('mlm_probability', 0):.0%} to predict. "
            f"{run.counts.get('heldout', {}).get('examples', 0):,} examples of other documents are held out."
        )
    return "\n\n".join(told) or "The runs of this card do not hold the training data."


def _evaluation(runs: Runs) -> str:
    parts = []
    for run, name, scores in fill_mask_runs(runs):
        told = f"{scores.get('masks', 0):,} masks of {scores.get('examples', 0):,} texts"
        split = "held-out documents of the corpus" if "shards" in run.inputs else "texts with masks"
        models = [each for each in ("teacher", STUDENT) if isinstance(scores.get(each), Mapping)]
        keys = [key for key in scores[name] if key not in ("parameters", "megabytes") and not key.startswith("latency")]
        rows: list[list[object]] = [
            [label(key), *[shown(key, scores[each].get(key)) for each in models]] for key in keys
        ]
        parts += [f"Fill-mask, {told}, {split}:", _table(["", *models], rows)]
    for _, scores in glue_runs(runs):
        rows = [_glue_row(task, found, scores) for task, found in scores["summary"].items()]
        seeds = sorted({int(found["score"]["seeds"]) for found in scores["summary"].values()})
        told = f"median of {' or '.join(map(str, seeds))} seed(s), times 100"
        parts += [f"GLUE, dev split, {told}:", _table(["task", "score", "majority", *PUBLISHED, "remarks"], rows)]
    return "\n\n".join(parts) or "Not measured: no evaluation of this very model is among the runs of this card."


def _glue_row(task: Any, found: Values, scores: Values) -> list[object]:
    published = [f"{values[task]:.1f}" if task in values else NOTHING for values in PUBLISHED.values()]
    majority = f"{100 * scores['majority'][task]['score']:.1f}"
    remarks = ", ".join(scores.get("remarks", {}).get(task, [])) or NOTHING
    return [task, f"{100 * found['score']['median']:.1f}", majority, *published, remarks]


def _efficiency(runs: Runs) -> str:
    subject, rows = runs.subject, []
    if subject is not None and subject.weights:
        rows.append(["weights on the disk", size(subject.weights["bytes"])])
    if subject is not None and "parameters" in subject.counts:
        rows.append(["parameters", shown("parameters", subject.counts["parameters"])])
    for run, name, scores in fill_mask_runs(runs):
        if scores[name].get("latency_ms"):
            cores = run.record.get("cpus")
            rows.append([f"{label('latency_ms')}, {cores} cores", shown("latency_ms", scores[name]["latency_ms"])])
    exported = [
        f"Exported, each format compared with the model: {_plain(run.record['summary'])}."
        for run in runs.of("export_model")
        if runs.about_subject(run, "model")
    ]
    return "\n\n".join([_table(["", ""], rows) or "Not measured.", *exported, *_speeds(runs)])


def _speeds(runs: Runs) -> list[str]:
    """The tables in which the model is measured beside others."""
    parts = []
    for run in runs.of("measure_efficiency"):
        if any(runs.about_subject(run, name) for name in run.inputs):
            found = run.values(EFFICIENCY_FILE)
            keys = list(dict.fromkeys(key for row in found["models"].values() for key in row))
            told = (
                f"{found['texts']:,} {'pairs of sentences' if found['pairs'] else 'texts'}, {found['threads']} threads"
            )
            rows = [[name, *[shown(key, row.get(key)) for key in keys]] for name, row in found["models"].items()]
            parts += [f"On {_plain(found['cpu'])}, {told}:", _table(["", *map(label, keys)], rows)]
    return parts


def _bias(runs: Runs) -> str:
    general = (
        "The model has learnt from its corpus and from its teacher, and repeats what they say of groups of people, "
        "also where no one would want it to. It knows words, not facts: what it fills in may be fluent and false. Use "
        "it for texts of the language and kind of its corpus."
    )
    for run in runs.of("evaluate_bias"):
        name = bias_name(runs, run)
        if name is not None:
            return "\n\n".join([general, *_measured_bias(name, run.values(SCORES_FILE))])
    told = "Its biases were not measured: no run of `jobs.evaluate_bias` on it is among the runs of this card."
    return f"{general}\n\n{told}"


def _measured_bias(name: str, scores: Values) -> list[str]:
    parts = []
    if "probes" in scores:
        rows = [
            [probe["text"], ", ".join(f"{a['token']} {a['score']:.3f}" for a in probe["answers"][name])]
            for probe in scores["probes"]["card"]
        ]
        parts += ["What it fills in:", _table(["text", "most probable"], rows)]
    if "crows_pairs" in scores:
        cells: Values = scores["crows_pairs"]["scores"][name]
        rows = [
            [part, cell["pairs"], _per_cent(cell["share"]), _interval(cell["interval"])] for part, cell in cells.items()
        ]
        parts += [
            "CrowS-Pairs: how often the more stereotyping of two sentences is the more probable one, in per cent; 50 "
            "is no preference.",
            _table(["", "pairs", "share", "95% interval"], rows),
        ]
    if "stereoset" in scores:
        rows = [
            [part, *[shown(key, cell.get(key)) for key in ("lms", "ss", "icat")]]
            for part, cell in scores["stereoset"]["scores"][name].items()
        ]
        parts += ["StereoSet, intrasentence:", _table(["", "LMS", "SS", "ICAT"], rows)]
    return [*parts, *map(_plain, scores.get("limits", []))]


def _per_cent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return NOTHING if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def _provenance(runs: Runs) -> str:
    rows = [
        [run.job, run.content_hash[:12], str(run.record.get("git_commit") or NOTHING)[:12], run.record.get("finished")]
        for run in runs
    ]
    versions = runs.subject.record.get("versions", {}) if runs.subject else {}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{_table(['job', 'content hash', 'code', 'finished'], rows)}\n\n{_plain(told)}"
