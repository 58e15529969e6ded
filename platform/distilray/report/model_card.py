"""Model card: a README.md with the hub's metadata, from the content of completed runs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distilray.config.report import ReportConfig
from distilray.distillation.losses import LOSSES
from distilray.evaluation.glue.comparison import Comparison, find_comparison, format_percent, task_score
from distilray.evaluation.glue.table import PUBLISHED, task_remarks
from distilray.report.blocks import drop_empty_columns, template_environment
from distilray.report.card_metadata import base_model, metadata
from distilray.report.figures import NOTHING, counted, interval, label, shown, size, time
from distilray.report.runs import EFFICIENCY_FILE, STUDENT, TEACHER, Run, Runs, Values
from distilray.report.sections.training_curves import loss_weights

# Also in docs/notebooks/fill_mask.ipynb; a test compares them.
SAMPLE = """from transformers import pipeline

fill = pipeline("fill-mask", model=MODEL_DIR)
for candidate in fill("Paris is the [MASK] of France.", top_k=3):
    print(f"{candidate['score']:.3f} {candidate['sequence']}")"""
_GLUE_HEAD = ("task", "score", "95% interval", "majority", "above", "kept", "kept above chance", *PUBLISHED, "remarks")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def model_card(runs: Runs, config: ReportConfig) -> str:
    """Return the card of the report's model as Markdown with metadata."""
    base = config.base_model or base_model(runs)
    text = template_environment().overlay(autoescape=False, finalize=_escaped).get_template("model_card.md.j2").render(
        metadata=Markdown(metadata(runs, config).to_yaml()),
        name=config.model_name,
        sample=Markdown(SAMPLE),
        subject=runs.subject,
        base=base,
        steps=_steps,
        teachers=[run for run in runs.of("train_teacher") if run is not runs.subject],
        corpora=[_corpus(run) for run in runs.of("build_corpus")],
        examples=[_examples(run) for run in runs.of("encode_corpus")],
        fill_mask=[_fill_mask(*found) for found in runs.fill_mask_scores()],
        glue=[_glue(runs, *found) for found in runs.glue_scores()],
        sizes=_sizes(runs),
        exports=[run.record["summary"] for run in runs.of("export_model") if runs.input_is_subject(run, "model")],
        speeds=[_speed(run) for run in runs.of("measure_efficiency")
                if any(runs.input_is_subject(run, name) for name in run.inputs)],
        sources="corpus and its teacher" if runs.of("distill") else "corpus",
        bias=next((_bias(name, scores) for _, name, scores in runs.bias_scores()), {}),
        provenance=_provenance(runs),
        **(_training(runs.subject, base) if runs.subject else {"losses": "", "versions": ""}),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _escaped(value: object) -> Markdown:
    """Escape a text for Markdown, in one line."""
    if isinstance(value, Markdown):
        return value
    one_line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return Markdown(re.sub(r"([\\`*_\[\]|#~])", r"\\\1", one_line))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a table without empty columns; nothing without rows."""
    head, rows = drop_empty_columns(head, rows)
    cells: list[Sequence[object]] = [head, *rows]
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in cells]
    return Markdown("\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]]) if rows else "")


def _training(run: Run, base: str | None) -> Mapping[str, object]:
    """Return the settings of the model's training."""
    rate = run.config.get("optimizer", {}).get("learning_rate")
    settings = {
        "highest learning rate": None if rate is None else shown("learning_rate", rate),
        "precision": run.config.get("precision"),
        "seed": run.config.get("seed"),
    }
    scaling: Values = run.recipe.get("scaling", {})
    count, device = scaling.get("num_workers", 1), "GPU" if scaling.get("use_gpu") else "CPU"
    temperature = run.config.get("losses", {}).get("temperature")
    own, teacher = run.counts.get("parameters"), run.counts.get("teacher_parameters")
    share = f", {own / teacher:.0%} of its teacher's" if own and teacher else ""
    return {
        "student": _student(run, f"a BERT ({base})" if base else "a BERT"),
        "parameters": f"{own / 1e6:,.1f} million parameters{share}" if own else "",
        "settings": "".join(f", {name} {value}" for name, value in settings.items() if value is not None),
        "workers": f"{counted(count, 'worker')} with a {device}{'' if count == 1 else ' each'}",
        "spent": time(run.record["wall_s"]),
        "temperature": "" if temperature is None else shown("temperature", temperature),
        "losses": _table(
            ["loss", "weight"],
            [[LOSSES[term].label, shown("weight", value)] for term, value in loss_weights(run).items()],
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in run.record.get("versions", {}).items()),
    }


def _student(run: Run, teacher: str) -> str:
    """Describe the layers of a student, the source of its weights, and its objective."""
    own, all_layers = run.counts.get("layers"), run.counts.get("teacher_layers")
    student: Values = run.config.get("student", {})
    learns_from_teacher = bool(set(loss_weights(run)) - {"mlm"})
    if student.get("initialization") == "random":
        layers = f" with {counted(own, 'layer')}" if own else ""
        of_teacher = f" with {counted(all_layers, 'layer')}" if all_layers else ""
        objective = f"answer like its teacher, {teacher}{of_teacher}" if learns_from_teacher else "fill masks"
        return f"A DistilBERT{layers}, initialised at random and trained to {objective}"
    chosen = student.get("layers") or []
    count = own or len(chosen)
    layers = f"{count} of {counted(all_layers, 'layer')}" if all_layers else counted(count, "layer")
    listed = f" ({', '.join(map(str, chosen))})" if chosen else ""
    source = f"{layers}{listed}" if count else "half the layers"  # the default of a run that did not count them
    objective = "answer like it" if learns_from_teacher else "fill masks"
    return f"A DistilBERT with {source} of its teacher, {teacher}, initialised from it and trained to {objective}"


def _steps(run: Run) -> str:
    batch = run.config.get("batch_size")
    return counted(run.counts["steps"], "step") + ("" if batch is None else f" of {counted(batch, 'example')}")


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
        "split": "held-out documents of the corpus" if "shards" in run.inputs else "texts with masks",
        "table": _table(
            ["", *models], [[label(key), *[shown(key, scores[model].get(key)) for model in models]] for key in keys]
        ),
    }


def _glue(runs: Runs, run: Run, scores: Values) -> Mapping[str, object]:
    teacher = runs.input_of(run, TEACHER)
    compared = find_comparison(scores, None if teacher is None else teacher.scores())
    seeds = sorted({int(by_metric["score"]["seeds"]) for by_metric in scores["summary"].values()})
    return {
        "seeds": f"{' or '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}",
        "table": _table(_GLUE_HEAD, [_glue_row(task, scores, compared) for task in scores["summary"]]),
        "summary": compared.summary if compared else "",
    }


def _glue_row(task: Any, scores: Values, compared: Comparison | None) -> list[object]:
    own, kept = task_score(scores, task), compared.tasks.get(task) if compared else None
    is_left_out = compared is not None and task in compared.left_out
    return [
        task,
        f"{100 * own.score:.1f}",
        interval(own.interval),
        f"{100 * own.majority:.1f}",
        f"{100 * own.above:+.1f}",
        format_percent(kept.raw, kept.raw_interval) if kept else NOTHING,
        format_percent(kept.above_chance, kept.above_chance_interval) if kept and not is_left_out else NOTHING,
        *[f"{values[task]:.1f}" if task in values else NOTHING for values in PUBLISHED.values()],
        ", ".join(task_remarks(scores, task)) or NOTHING,
    ]


def _sizes(runs: Runs) -> Markdown:
    """Return size and latency of the model."""
    subject, rows = runs.subject, []
    if subject is not None and subject.weights:
        rows.append(["weights on the disk", size(subject.weights["bytes"])])
    if subject is not None and "parameters" in subject.counts:
        rows.append(["parameters", shown("parameters", subject.counts["parameters"])])
    for run, name, scores in runs.fill_mask_scores():
        if scores[name].get("latency_ms"):
            cores = run.record.get("cpus")
            on_cores = f", {counted(cores, 'core')}" if cores else ""
            rows.append([f"{label('latency_ms')}{on_cores}", shown("latency_ms", scores[name]["latency_ms"])])
    return _table(["measure", "value"], rows)


def _speed(run: Run) -> Mapping[str, object]:
    """Return the efficiency of the model and of others."""
    measured = run.values(EFFICIENCY_FILE)
    keys = list(dict.fromkeys(key for row in measured["models"].values() for key in row))
    rows = [[name, *[shown(key, row.get(key)) for key in keys]] for name, row in measured["models"].items()]
    return {
        "cpu": measured["cpu"],
        "texts": f"{measured['texts']:,}",
        "kind": "pairs of sentences" if measured["pairs"] else "texts",
        "threads": counted(measured["threads"], "thread"),
        "table": _table(["", *map(label, keys)], rows),
    }


def _bias(name: str, scores: Values) -> Mapping[str, object]:
    """Return the measured biases of the model."""
    probes = [
        [probe["text"], ", ".join(f"{answer['token']} {answer['score']:.3f}" for answer in probe["answers"][name])]
        for probe in scores.get("probes", {}).get("card", [])
    ]
    pairs = [
        [category, cell["pairs"], _hundredfold(cell["share"]), interval(cell["interval"])]
        for category, cell in scores.get("crows_pairs", {}).get("scores", {}).get(name, {}).items()
    ]
    stereoset = [
        [category, *[shown(key, cell.get(key)) for key in ("lms", "ss", "icat")]]
        for category, cell in scores.get("stereoset", {}).get("scores", {}).get(name, {}).items()
    ]
    return {
        "probes": _table(["text", "most probable"], probes),
        "crows_pairs": _table(["", "pairs", "share", "95% interval"], pairs),
        "stereoset": _table(["", "LMS", "SS", "ICAT"], stereoset),
        "limits": scores.get("limits", []),
    }


def _hundredfold(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _provenance(runs: Runs) -> Markdown:
    rows = [
        [run.job, run.content_hash[:12], str(run.record.get("git_commit") or NOTHING)[:12], run.record.get("finished")]
        for run in runs
    ]
    return _table(["job", "content hash", "code", "finished"], rows)
