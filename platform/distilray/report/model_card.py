"""Model card: a README.md with metadata for the Hugging Face hub, written from completed runs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distilray.config.report import ReportConfig
from distilray.distillation.losses import LOSSES
from distilray.evaluation.glue.comparison import Comparison, find_comparison, format_percent, task_score
from distilray.evaluation.glue.table import PUBLISHED, task_remarks
from distilray.report.blocks import drop_empty_columns, template_environment
from distilray.report.card_metadata import base_model, card_metadata
from distilray.report.formatting import (
    NOTHING,
    format_duration,
    format_interval,
    format_size,
    format_value,
    label,
    pluralize,
    short_hash,
)
from distilray.report.runs import EFFICIENCY_FILE, STUDENT, TEACHER, Run, Runs, Values
from distilray.report.sections.training_curves import loss_weights

# The same code is in docs/notebooks/fill_mask.ipynb; a test compares them.
SAMPLE = """from transformers import pipeline

fill = pipeline("fill-mask", model=MODEL_DIR)
for candidate in fill("Paris is [MASK] of France", top_k=3):
    print(f"{candidate['score']:.3f} {candidate['sequence']}")"""
_GLUE_HEAD = ("task", "score", "95% interval", "majority", "above", "kept", "kept above chance", *PUBLISHED, "remarks")


class Markdown(str):
    """Text that is already Markdown and is not escaped again."""

    __slots__ = ()


def model_card(runs: Runs, config: ReportConfig) -> str:
    """Return the card of the model that the report is about."""
    base = config.base_model or base_model(runs)
    text = template_environment().overlay(autoescape=False, finalize=_escaped).get_template("model_card.md.j2").render(
        metadata=Markdown(card_metadata(runs, config).to_yaml()),
        name=config.model_name,
        sample=Markdown(SAMPLE),
        subject=runs.subject,
        base=base,
        steps=_steps,
        teachers=[run for run in runs.by_job("train_teacher") if run is not runs.subject],
        corpora=[_corpus(run) for run in runs.by_job("build_corpus")],
        examples=[_examples(run) for run in runs.by_job("encode_corpus")],
        fill_mask=[_fill_mask(*scored) for scored in runs.fill_mask_scores()],
        glue=[_glue(runs, *scored) for scored in runs.glue_scores()],
        sizes=_sizes(runs),
        exports=[run.record["summary"] for run in runs.by_job("export_model") if runs.input_is_subject(run, "model")],
        speeds=[_speed(run) for run in runs.by_job("measure_efficiency")
                if any(runs.input_is_subject(run, name) for name in run.inputs)],
        sources="corpus and its teacher" if runs.by_job("distill") else "corpus",
        bias=next((_bias(name, scores) for _, name, scores in runs.bias_scores()), {}),
        provenance=_provenance(runs),
        **(_training(runs.subject, base) if runs.subject else {"losses": "", "versions": ""}),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _escaped(value: object) -> Markdown:
    """Escape a text for Markdown and join its lines."""
    if isinstance(value, Markdown):
        return value
    one_line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return Markdown(re.sub(r"([\\`*_\[\]|#~])", r"\\\1", one_line))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a table without empty columns; empty text without rows."""
    head, rows = drop_empty_columns(head, rows)
    cells: list[Sequence[object]] = [head, *rows]
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in cells]
    return Markdown("\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]]) if rows else "")


def _training(run: Run, base: str | None) -> Mapping[str, object]:
    """Return the template values that describe the training of the model."""
    rate = run.config.get("optimizer", {}).get("learning_rate")
    settings = {
        "peak learning rate": None if rate is None else format_value("learning_rate", rate),
        "precision": run.config.get("precision"),
        "seed": run.config.get("seed"),
    }
    scaling: Values = run.recipe.get("scaling", {})
    count, device = scaling.get("num_workers", 1), "GPU" if scaling.get("use_gpu") else "CPU"
    temperature = run.config.get("losses", {}).get("temperature")
    own, teacher = run.counts.get("parameters"), run.counts.get("teacher_parameters")
    share = f", {own / teacher:.0%} of the teacher's" if own and teacher else ""
    return {
        "student": _student(run, f"a BERT ({base})" if base else "a BERT"),
        "parameters": f"{own / 1e6:,.1f} million parameters{share}" if own else "",
        "settings": "".join(f", {name} {value}" for name, value in settings.items() if value is not None),
        "workers": f"{pluralize(count, 'worker')} with a {device}{'' if count == 1 else ' each'}",
        "wall_time": format_duration(run.record["wall_s"]),
        "temperature": "" if temperature is None else format_value("temperature", temperature),
        "losses": _table(
            ["loss", "weight"],
            [[LOSSES[term].label, format_value("weight", value)] for term, value in loss_weights(run).items()],
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in run.record.get("versions", {}).items()),
    }


def _student(run: Run, teacher: str) -> str:
    """Describe the layers of a student, their initialization, and the training objective."""
    own, teacher_layers = run.counts.get("layers"), run.counts.get("teacher_layers")
    student: Values = run.config.get("student", {})
    learns_from_teacher = bool(set(loss_weights(run)) - {"mlm"})
    if student.get("initialization") == "random":
        layers = f" with {pluralize(own, 'layer')}" if own else ""
        of_teacher = f" with {pluralize(teacher_layers, 'layer')}" if teacher_layers else ""
        objective = (
            f"reproduce the predictions of its teacher, {teacher}{of_teacher}" if learns_from_teacher else "fill masks"
        )
        return f"A DistilBERT{layers}, randomly initialized and trained to {objective}"
    chosen = student.get("layers") or []
    count = own or len(chosen)
    layers = f"{count} of {pluralize(teacher_layers, 'layer')}" if teacher_layers else pluralize(count, "layer")
    listed = f" ({', '.join(map(str, chosen))})" if chosen else ""
    copied = f"{layers}{listed}" if count else "half the layers"  # the default, for runs without this count
    objective = "reproduce its predictions" if learns_from_teacher else "fill masks"
    return f"A DistilBERT initialized with {copied} of its teacher, {teacher}, and trained to {objective}"


def _steps(run: Run) -> str:
    batch = run.config.get("batch_size")
    return pluralize(run.counts["steps"], "step") + ("" if batch is None else f" of {pluralize(batch, 'example')}")


def _corpus(run: Run) -> Mapping[str, str]:
    sources = [
        f"{source['name']}" + (f" ({source['license']})" if source.get("license") else "")
        for source in run.config.get("sources", [])
        if source.get("name")
    ]
    return {
        "documents": f"{run.counts['documents']:,}",
        "words": f"{run.counts.get('words', 0):,}",
        "sources": ", ".join(sources) or "unnamed sources",
    }


def _examples(run: Run) -> Mapping[str, str]:
    train, heldout = (run.counts.get(split, {}) for split in ("train", "heldout"))
    return {
        "examples": f"{train.get('examples', 0):,}",
        "tokens": f"{train.get('tokens', 0):,}",
        "length": f"{run.config.get('max_seq_length')}",
        "masked": f"{run.config.get('masking', {}).get('mlm_probability', 0):.0%}",
        "heldout": f"{heldout.get('examples', 0):,}",
    }


def _fill_mask(run: Run, name: str, scores: Values) -> Mapping[str, object]:
    models = [model for model in (TEACHER, STUDENT) if isinstance(scores.get(model), Mapping)]
    keys = [key for key in scores[name] if key not in ("parameters", "megabytes") and not key.startswith("latency")]
    return {
        "masks": f"{scores.get('masks', 0):,}",
        "examples": f"{scores.get('examples', 0):,}",
        "split": "held-out documents of the corpus" if "shards" in run.inputs else "files of masked texts",
        "table": _table(
            ["", *models],
            [[label(key), *[format_value(key, scores[model].get(key)) for model in models]] for key in keys],
        ),
    }


def _glue(runs: Runs, run: Run, scores: Values) -> Mapping[str, object]:
    teacher = runs.input_of(run, TEACHER)
    comparison = find_comparison(scores, None if teacher is None else teacher.read_scores())
    seeds = sorted({int(by_metric["score"]["seeds"]) for by_metric in scores["summary"].values()})
    return {
        "seeds": f"{' or '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}",
        "table": _table(_GLUE_HEAD, [_glue_row(task, scores, comparison) for task in scores["summary"]]),
        "summary": comparison.summary if comparison else "",
    }


def _glue_row(task: Any, scores: Values, comparison: Comparison | None) -> list[object]:
    own, kept = task_score(scores, task), comparison.tasks.get(task) if comparison else None
    is_left_out = comparison is not None and task in comparison.left_out
    return [
        task,
        f"{100 * own.score:.1f}",
        format_interval(own.interval),
        f"{100 * own.majority:.1f}",
        f"{100 * own.above_majority:+.1f}",
        format_percent(kept.raw, kept.raw_interval) if kept else NOTHING,
        format_percent(kept.above_chance, kept.above_chance_interval) if kept and not is_left_out else NOTHING,
        *[f"{values[task]:.1f}" if task in values else NOTHING for values in PUBLISHED.values()],
        ", ".join(task_remarks(scores, task)) or NOTHING,
    ]


def _sizes(runs: Runs) -> Markdown:
    subject, rows = runs.subject, []
    if subject is not None and subject.weights:
        rows.append(["file size of the weights", format_size(subject.weights["bytes"])])
    if subject is not None and "parameters" in subject.counts:
        rows.append(["parameters", format_value("parameters", subject.counts["parameters"])])
    for run, name, scores in runs.fill_mask_scores():
        if scores[name].get("latency_ms"):
            cores = run.record.get("cpus")
            on_cores = f", {pluralize(cores, 'core')}" if cores else ""
            rows.append([f"{label('latency_ms')}{on_cores}", format_value("latency_ms", scores[name]["latency_ms"])])
    return _table(["measure", "value"], rows)


def _speed(run: Run) -> Mapping[str, object]:
    """Return the efficiency of the model and of the models measured in the same run."""
    results = run.read_json(EFFICIENCY_FILE)
    keys = list(dict.fromkeys(key for row in results["models"].values() for key in row))
    rows = [[name, *[format_value(key, row.get(key)) for key in keys]] for name, row in results["models"].items()]
    return {
        "cpu": results["cpu"],
        "texts": f"{results['texts']:,}",
        "kind": "sentence pairs" if results["pairs"] else "texts",
        "threads": pluralize(results["threads"], "thread"),
        "table": _table(["", *map(label, keys)], rows),
    }


def _bias(name: str, scores: Values) -> Mapping[str, object]:
    """Return the tables of bias scores."""
    probes = [
        [probe["text"], ", ".join(f"{answer['token']} {answer['score']:.3f}" for answer in probe["answers"][name])]
        for probe in scores.get("probes", {}).get("card", [])
    ]
    pairs = [
        [category, cell["pairs"], _times_100(cell["share"]), format_interval(cell["interval"])]
        for category, cell in scores.get("crows_pairs", {}).get("scores", {}).get(name, {}).items()
    ]
    stereoset = [
        [category, *[format_value(key, cell.get(key)) for key in ("lms", "ss", "icat")]]
        for category, cell in scores.get("stereoset", {}).get("scores", {}).get(name, {}).items()
    ]
    return {
        "probes": _table(["text", "most probable"], probes),
        "crows_pairs": _table(["", "pairs", "share", "95% interval"], pairs),
        "stereoset": _table(["", "LMS", "SS", "ICAT"], stereoset),
        "limits": scores.get("limits", []),
    }


def _times_100(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _provenance(runs: Runs) -> Markdown:
    rows = [
        [
            run.job,
            short_hash(run.content_hash),
            short_hash(run.record.get("git_commit") or NOTHING),
            run.record.get("finished"),
        ]
        for run in runs
    ]
    return _table(["job", "content hash", "code", "finished"], rows)
