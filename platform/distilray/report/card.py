"""The model card: a README.md with the hub's metadata, from what the runs say and nothing else."""

from collections.abc import Mapping
from typing import Any

import yaml

from distilray.config.report import ReportConfig
from distilray.report.card_results import biases, efficiency, evaluation, markdown_table, plain
from distilray.report.figures import NOTHING, counted, shown, time
from distilray.report.model_index import base_model, metadata
from distilray.report.runs import Run, Runs
from distilray.report.sections.training import TERMS, loss_weights

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
        f"# {plain(config.model_name)}",
        _what(runs, config),
        "## How to use",
        _use(),
        "## How it was trained",
        _training(runs, config),
        "## Evaluation",
        evaluation(runs),
        "## Size and speed",
        efficiency(runs),
        "## Limitations and biases",
        biases(runs),
        "## Provenance",
        _provenance(runs),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _what(runs: Runs, config: ReportConfig) -> str:
    subject, base = runs.subject, config.base_model or base_model(runs)
    of_base = f" ({plain(base)})" if base else ""
    if subject is None:
        return (
            "A model for filling masks. The runs of this card hold no training, so it says nothing of how it was made."
        )
    if subject.job == "train_teacher":
        return f"A BERT{of_base}, trained further to fill masks."
    own, teacher = subject.counts.get("parameters"), subject.counts.get("teacher_parameters")
    share = f", {own / teacher:.0%} of its teacher's" if own and teacher else ""
    parameters = f" It has {own / 1e6:,.1f} million parameters{share}." if own else ""
    return (
        f"{_student(subject, f'a BERT{of_base}')}.{parameters} It fills masks in texts, and may be fine-tuned for "
        "other tasks."
    )


def _student(run: Run, teacher: str) -> str:
    """The layers of a student, where its weights come from, and what it was trained for."""
    own, all_layers = run.counts.get("layers"), run.counts.get("teacher_layers")
    student: Values = run.config.get("student", {})
    learns_from_teacher = bool(set(loss_weights(run)) - {"mlm"})
    if student.get("initialisation") == "random":
        layers = f" with {counted(own, 'layer')}" if own else ""
        of_teacher = f" with {counted(all_layers, 'layer')}" if all_layers else ""
        trained = f"answer like its teacher, {teacher}{of_teacher}" if learns_from_teacher else "fill masks"
        return f"A DistilBERT{layers}, initialised at random and trained to {trained}"
    chosen = student.get("layers") or []
    count = own or len(chosen)
    layers = f"{count} of {counted(all_layers, 'layer')}" if all_layers else counted(count, "layer")
    listed = f" ({', '.join(map(str, chosen))})" if chosen else ""
    source = f"{layers}{listed}" if count else "half the layers"  # the default, of a run that did not count them
    trained = "answer like it" if learns_from_teacher else "fill masks"
    return f"A DistilBERT with {source} of its teacher, {teacher}, initialised from it and trained to {trained}"


def _use() -> str:
    return (
        "`MODEL_DIR` is the folder of this card's model, or its id on a hub.\n\n"
        f"```python\n{SAMPLE}\n```\n\nOver HTTP, where distilray serves it:\n\n```sh\n{_CURL}\n```"
    )


def _training(runs: Runs, config: ReportConfig) -> str:
    subject = runs.subject
    parts = [_data(runs)]
    if subject is not None:
        parts.append(_steps(subject))
        weights = loss_weights(subject)
        temperature = subject.config.get("losses", {}).get("temperature")
        at = "" if temperature is None else f", at temperature {shown('temperature', temperature)}"
        rows = [[TERMS[term], shown("weight", weight)] for term, weight in weights.items()]
        if rows:
            parts += [f"The loss is the weighted sum of these terms{at}:", markdown_table(["loss", "weight"], rows)]
    for run in [run for run in runs.of("train_teacher") if run is not subject]:
        steps = f"{counted(run.counts['steps'], 'step')}{_batch(run)}"
        parts.append(f"The teacher was trained to fill masks on the same kind of examples, for {steps}.")
    return "\n\n".join(part for part in parts if part)


def _steps(run: Run) -> str:
    """The settings of a training, as far as its run knows them."""
    rate = run.config.get("optimizer", {}).get("learning_rate")
    settings = {
        "highest learning rate": None if rate is None else shown("learning_rate", rate),
        "precision": run.config.get("precision"),
        "seed": run.config.get("seed"),
    }
    known = "".join(f", {name} {value}" for name, value in settings.items() if value is not None)
    return (
        f"{counted(run.counts['steps'], 'step')}{_batch(run)} with AdamW{known}, on {_workers(run)}. "
        f"The process that finished it took {time(run.record['wall_s'])}."
    )


def _batch(run: Run) -> str:
    size = run.config.get("batch_size")
    return "" if size is None else f" of {counted(size, 'example')}"


def _workers(run: Run) -> str:
    scaling: Values = run.recipe.get("scaling", {})
    count, device = scaling.get("num_workers", 1), "GPU" if scaling.get("use_gpu") else "CPU"
    return f"{counted(count, 'worker')} with a {device}{'' if count == 1 else ' each'}"


def _data(runs: Runs) -> str:
    told = []
    for run in runs.of("build_corpus"):
        sources = [
            f"{each['name']}" + (f" ({each['licence']})" if each.get("licence") else "")
            for each in run.config.get("sources", [])
            if each.get("name")
        ]
        told.append(
            f"Corpus: {run.counts['documents']:,} documents, {run.counts.get('words', 0):,} words, "
            f"from {plain(', '.join(sources)) or 'unnamed sources'}."
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


def _provenance(runs: Runs) -> str:
    rows = [
        [run.job, run.content_hash[:12], str(run.record.get("git_commit") or NOTHING)[:12], run.record.get("finished")]
        for run in runs
    ]
    versions = runs.subject.record.get("versions", {}) if runs.subject else {}
    parts = [markdown_table(["job", "content hash", "code", "finished"], rows)]
    if versions:
        parts.append(f"Versions: {plain(', '.join(f'{name} {version}' for name, version in versions.items()))}.")
    return "\n\n".join(parts)
