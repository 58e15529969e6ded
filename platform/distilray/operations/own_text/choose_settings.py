"""Choice of the settings of `jobs/pipelines/mine.yaml`, written as one recipe per stage."""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from distilray.config.base import Precision
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.own_text import ChooseSettingsConfig
from distilray.corpus.chunks import check_inputs, source_files
from distilray.corpus.survey import Survey, survey_text
from distilray.errors import InputError
from distilray.models.architectures import architecture_of
from distilray.models.flops import model_size, peak_flops
from distilray.models.heads import decoder
from distilray.models.masked_lm import load_masked_lm
from distilray.models.precision import cpu_has_bf16
from distilray.models.sources import localize
from distilray.operations.own_text.measurement import TextMeasurement, measure_text
from distilray.operations.own_text.sizing import Hardware, Setting, Sizes, Workload, choose_sizes
from distilray.operations.plan.machines import CPU, DEVICES
from distilray.pretraining_data.token_ids import check_tokenizer
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.environment import inside_cluster
from distilray.runtime.job import Outcome
from distilray.runtime.progress import format_duration
from distilray.runtime.resources import cluster_nodes
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session

RECIPES_FOLDER = "recipes"
_UNKNOWN_GPU = "A10G"  # a GPU that is not in the table counts as one of these
_GPU_UTILIZATION = 0.25  # of the peak; see the projections of `jobs.plan`
_SPEED = 0.7  # share of the estimated speed that is planned with; other programs may run too
_MAX_UNKNOWN = 0.1  # share of unknown tokens above which a tokenizer does not fit a text
_MANY_PIECES = 1.8  # tokens per word above which a tokenizer was made for other text; English with BERT has 1.2
_FILTER_KEYS = {
    "too_few_sentences": "min_sentences",
    "too_short": "min_words",
    "list_like": "max_list_fraction",
    "too_few_letters": "min_letter_fraction",
    "repeated_lines": "max_repeated_fraction",
}
_CHECKED_TEXTS = 50
_MIN_DOCUMENTS, _MIN_BYTES = 30, 10_000

Recipes = Mapping[str, Mapping[str, Setting]]


@dataclass(frozen=True)
class Choice:
    """Chosen settings, and the measurements that they follow from.

    Attributes:
        recipes: settings by stage and key.
    """

    survey: Survey
    language: str
    text: TextMeasurement
    work: Workload
    hardware: Hardware
    sizes: Sizes
    recipes: Recipes


def plan_settings(config: ChooseSettingsConfig) -> dict[str, object]:
    """Return the chosen settings with their reasons.

    Raises:
        InputError: there is no text, or the model or its tokenizer cannot be used.
    """
    choice = choose(config)
    rows: dict[str, object] = describe(choice)
    for stage, settings in choice.recipes.items():
        for key, setting in settings.items():
            rows[f"{stage}.{key}"] = f"{_inline(setting.value)}  ({setting.reason})"
    return rows


def choose_settings(config: ChooseSettingsConfig, folder: RunFolder) -> Outcome:
    """Write one recipe per stage."""
    choice = choose(config)
    files, description = recipe_files(choice.recipes), describe(choice)
    for name, text in files.items():
        storage.write_bytes(folder.path(name), text.encode())
    counts = {
        "language": choice.language,
        "text_bytes": choice.survey.text_bytes,
        "text_tokens": choice.work.text_tokens,
    }
    outputs = folder.describe_outputs(files)
    summary = "; ".join(
        f"{key}: {description[key]}"
        for key in ("text", "dropped", "language", "not read", "time")
        if key in description
    )
    return Outcome(summary, counts, outputs)


def generated_recipes(config: ChooseSettingsConfig) -> dict[str, tuple[dict[str, Any], float | None]]:
    """Return the recipes that `choose_settings` would write, with the expected seconds of their stages, by path."""
    choice = choose(config)
    files = recipe_files(choice.recipes)
    stages = zip(files, choice.recipes, strict=True)
    return {path: (yaml.safe_load(files[path]), choice.sizes.seconds.get(stage)) for path, stage in stages}


def recipe_files(recipes: Recipes) -> dict[str, str]:
    """Return the YAML text of the recipes by path below the run folder. The reason is a comment behind each line."""
    return {
        f"{RECIPES_FOLDER}/{stage}.yaml": "".join(
            f"{key}: {_inline(setting.value)}  # {setting.reason}\n" for key, setting in settings.items()
        )
        for stage, settings in recipes.items()
    }


def describe(choice: Choice) -> dict[str, object]:
    """Return what is known about text, model and machine, and the expected time, in words."""
    survey, text, work, hardware = choice.survey, choice.text, choice.work, choice.hardware
    kinds = ", ".join(
        f"{source.files:,} {source.source.kind} file{'s' * (source.files > 1)} ({source.reason})"
        for source in survey.sources
    )
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in survey.skipped.items())
    dropped = ", ".join(
        f"{share:.0%} of the documents {reason.replace('_', ' ')}" + f" (build_corpus.filters.{_FILTER_KEYS[reason]})"
        for reason, share in text.dropped.items()
        if share >= 0.01
    )
    amount = f"{survey.text_bytes / 1e6:,.2f} MB in {survey.documents:,} documents, {work.text_tokens:,} tokens"
    fit = f"{text.pieces_per_word:.1f} tokens per word or punctuation mark, {text.unknown:.1%} unknown"
    if text.pieces_per_word > _MANY_PIECES:
        fit += "; made for other text or another language: expect lower scores, or choose another model"
    device = f"{hardware.gpus} x {hardware.name}" if hardware.gpus else f"{hardware.cores} x {hardware.name}"
    return {
        "text": f"{kinds}; about {amount}",
        **({"dropped": dropped} if dropped else {}),
        "language": f"{choice.language} ({survey.language_share:.0%} of the sampled documents are {survey.language})",
        **({"not read": skipped} if skipped else {}),
        "model": f"{work.model.layers} layers of size {work.model.dim}, {'with' if work.has_head else 'without'} a "
        "masked-LM head",
        "tokenizer": fit,
        "student": f"{work.student_layers} layers",
        "machine": device,
        "time": f"about {format_duration(sum(choice.sizes.seconds.values()))} for all stages",
    }


@functools.lru_cache(maxsize=1)
def choose(config: ChooseSettingsConfig) -> Choice:
    """Survey text, model and machine, and choose the settings of all stages.

    Raises:
        InputError: there is not enough text, or the model or its tokenizer cannot be used.
    """
    survey = survey_text(config.text_path, text_column=config.text_column)
    language = config.language or survey.language
    folder = localize(config.model_dir)
    model, tokenizer_json = load_masked_lm(folder, fresh_head=True), read_tokenizer(folder)
    text = _measure(config, survey, language, tokenizer_json)
    work = _workload(survey, text, model)
    if not (work.has_head or config.adapt_teacher):
        raise InputError(
            f"model_dir: {config.model_dir} has no masked-LM head, so it cannot be a teacher yet; adapt it with "
            "jobs/pipelines/mine.yaml (make mine without ADAPT=no)"
        )
    hardware = _hardware(config)
    sizes = choose_sizes(work, hardware, training_minutes=config.training_minutes, adapt_teacher=config.adapt_teacher)
    recipes = _recipes(config, survey, text, language, sizes)
    corpus = BuildCorpusConfig(run_dir=config.run_dir, sources=[each.source for each in survey.sources])
    check_inputs(corpus, source_files(corpus))
    return Choice(survey, language, text, work, hardware, sizes, recipes)


def _measure(config: ChooseSettingsConfig, survey: Survey, language: str, tokenizer_json: str) -> TextMeasurement:
    """Measure the text, and check that it is enough and that the tokenizer fits it."""
    try:
        vocabulary = vocabulary_of(tokenizer_json)
    except InputError as error:
        raise InputError(f"model_dir: {config.model_dir}: {error}") from None
    check_tokenizer(config.model_dir, survey.samples[:_CHECKED_TEXTS], tokenizer_json, vocabulary)
    text = measure_text(survey, build_tokenizer(tokenizer_json), language, unknown_id=vocabulary.unk)
    if text.unknown > _MAX_UNKNOWN:
        raise InputError(
            f"model_dir: the tokenizer of {config.model_dir} does not know {text.unknown:.0%} of the text "
            f"({survey.language}); choose a model of this language"
        )
    if text.documents < _MIN_DOCUMENTS or survey.text_bytes < _MIN_BYTES:
        raise InputError(
            f"text_path: about {text.documents:,} usable documents and {survey.text_bytes:,} bytes of text; at least "
            f"{_MIN_DOCUMENTS} documents and {_MIN_BYTES:,} bytes are needed, because some documents "
            "are held out; add text, or put each document on a line of its own"
        )
    return text


def _recipes(
    config: ChooseSettingsConfig, survey: Survey, text: TextMeasurement, language: str, sizes: Sizes
) -> Recipes:
    sources = [
        {**each.source.model_dump(mode="json", exclude_defaults=True), "kind": each.source.kind, "language": language}
        for each in survey.sources
    ]
    reasons = "; ".join(dict.fromkeys(source.reason for source in survey.sources))
    model = Setting(config.model_dir, "the model of the pipeline")
    name = re.sub(r"[^\w-]+", "-", config.text_path.rstrip("/").rpartition("/")[2].partition(".")[0]).strip("-")
    own: dict[str, dict[str, Setting]] = {
        "build_corpus": {
            "sources": Setting(sources, reasons),
            "duplicates": Setting({"near": {}}, "copies of a text distort the held-out scores"),
            **(
                {"filters": Setting(dict(text.filters), "your own text: only what is too short is dropped")}
                if text.filters
                else {}
            ),
        },
        "encode_corpus": {"tokenizer_dir": model},
        **({"train_teacher": {"encoder_dir": model}} if config.adapt_teacher else {}),
        "distill": {},
        "evaluate_fill_mask": {"max_examples": Setting(500, "half a point of hit@10 is significant")},
        "write_report": {
            "model_name": Setting(f"{name or 'own'}-student", "after the text"),
            "language": Setting([language], "as detected" if config.language is None else "as set"),
        },
    }
    return {stage: {**settings, **sizes.settings.get(stage, {})} for stage, settings in own.items()}


def _workload(survey: Survey, text: TextMeasurement, model: Any) -> Workload:
    config = model.config
    return Workload(
        text_bytes=survey.text_bytes,
        text_tokens=text.tokens,
        documents=text.documents,
        document_tokens=text.document_tokens,
        has_single_sentences=text.has_single_sentences,
        model=model_size(model),
        student_layers=max(1, config.num_hidden_layers // 2),
        has_head=bool(decoder(model).bias.any()),
        max_length=int(architecture_of(config).config_value(config, "max_position_embeddings")),
    )


def _hardware(config: ChooseSettingsConfig) -> Hardware:
    gpus, cores = config.num_gpus, config.num_cpus
    if inside_cluster() and (gpus is None or cores is None):
        with ray_session(config.ray):
            nodes = [node.resources for node in cluster_nodes()]
        gpus = int(sum(node.get("GPU", 0) for node in nodes)) if gpus is None else gpus
        cores = int(max(node.get("CPU", 1) for node in nodes)) if cores is None else cores
    gpus = torch.cuda.device_count() if gpus is None else gpus
    cores = (os.cpu_count() or 1) if cores is None else cores
    if not gpus:
        precision: Precision = "bf16" if cpu_has_bf16() else "fp32"
        rate = (DEVICES[CPU].peak(precision) or 0.0) * DEVICES[CPU].mfu[precision] * cores
        return Hardware(CPU, 0, cores, _SPEED * rate)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _UNKNOWN_GPU
    peak = peak_flops(name, "bf16") or peak_flops(_UNKNOWN_GPU, "bf16") or 0.0
    return Hardware(name, gpus, cores, _SPEED * peak * _GPU_UTILIZATION)


def _inline(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
        .removesuffix("\n...\n")
        .strip()
    )
