"""Choice of the settings of `jobs/pipelines/mine.yaml`, written as one recipe per stage."""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer

from distilray.config.base import Precision
from distilray.config.own_text import ChooseSettingsConfig
from distilray.corpus.survey import Survey, survey_text
from distilray.errors import InputError
from distilray.models.architectures import architecture_of
from distilray.models.flops import model_size, peak_flops
from distilray.models.heads import decoder
from distilray.models.masked_lm import load_masked_lm
from distilray.models.precision import cpu_has_bf16
from distilray.models.sources import localize
from distilray.operations.own_text.sizing import Hardware, Setting, Sizes, Workload, choose_sizes
from distilray.operations.plan.machines import CPU, DEVICES
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
_SPEED = 0.8  # share of the estimated speed that is planned with
_MAX_UNKNOWN = 0.1  # share of unknown tokens above which a tokenizer does not fit a text
_SAMPLE_TEXTS, _SAMPLE_CHARS = 200, 2000

Recipes = Mapping[str, Mapping[str, Setting]]


@dataclass(frozen=True)
class Choice:
    """Chosen settings, and the measurements that they follow from.

    Attributes:
        recipes: settings by stage and key.
    """

    survey: Survey
    language: str
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
    return Outcome(f"{description['text']}; {description['time']}", counts, outputs)


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
    survey, work, hardware = choice.survey, choice.work, choice.hardware
    kinds = ", ".join(f"{source.files:,} {source.source.kind} ({source.reason})" for source in survey.sources)
    skipped = ", ".join(f"{suffix} {count:,}" for suffix, count in survey.skipped.items())
    head = "with" if work.has_head else "without"
    device = f"{hardware.gpus} x {hardware.name}" if hardware.gpus else f"{hardware.cores} x {hardware.name}"
    return {
        "text": f"{kinds}; about {survey.text_bytes / 1e6:,.1f} MB of text, {work.text_tokens:,} tokens",
        "language": f"{choice.language} ({survey.language_share:.0%} of the sampled documents)",
        **({"not read": skipped} if skipped else {}),
        "model": f"{work.model.layers} layers of size {work.model.dim}, {head} a masked-LM head",
        "student": f"{work.student_layers} layers",
        "machine": device,
        "time": f"about {format_duration(sum(choice.sizes.seconds.values()))} for all stages",
    }


@functools.lru_cache(maxsize=1)
def choose(config: ChooseSettingsConfig) -> Choice:
    """Survey text, model and machine, and choose the settings of all stages.

    Raises:
        InputError: there is no text, or the model or its tokenizer cannot be used.
    """
    folder = localize(config.model_dir)
    model, tokenizer_json = load_masked_lm(folder, fresh_head=True), read_tokenizer(folder)
    survey = survey_text(config.text_path)
    language = config.language or survey.language
    work = _workload(
        survey, model, build_tokenizer(tokenizer_json), config.model_dir, vocabulary_of(tokenizer_json).unk
    )
    hardware = _hardware(config)
    sizes = choose_sizes(work, hardware, training_minutes=config.training_minutes)
    return Choice(survey, language, work, hardware, sizes, _recipes(config, survey, language, sizes))


def _recipes(config: ChooseSettingsConfig, survey: Survey, language: str, sizes: Sizes) -> Recipes:
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
        },
        "encode_corpus": {"tokenizer_dir": model},
        "train_teacher": {"encoder_dir": model},
        "distill": {},
        "evaluate_fill_mask": {"max_examples": Setting(500, "half a point of hit@10 is significant")},
        "write_report": {
            "model_name": Setting(f"{name or 'own'}-student", "after the text"),
            "language": Setting([language], "as detected" if config.language is None else "as set"),
        },
    }
    return {stage: {**settings, **sizes.settings.get(stage, {})} for stage, settings in own.items()}


def _workload(survey: Survey, model: Any, tokenizer: Tokenizer, name: str, unknown: int) -> Workload:
    texts = [text[:_SAMPLE_CHARS] for text in survey.samples[:: max(1, len(survey.samples) // _SAMPLE_TEXTS)]]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    tokens = sum(len(encoding.ids) for encoding in encodings)
    unknown_share = sum(encoding.ids.count(unknown) for encoding in encodings) / max(1, tokens)
    if unknown_share > _MAX_UNKNOWN:
        raise InputError(
            f"model_dir: the tokenizer of {name} does not know {unknown_share:.0%} of the text ({survey.language}); "
            "choose a model of this language"
        )
    tokens_per_byte = tokens / max(1, sum(len(text.encode()) for text in texts))
    config = model.config
    return Workload(
        text_bytes=survey.text_bytes,
        text_tokens=max(1, round(survey.text_bytes * tokens_per_byte)),
        has_single_sentences=survey.sentences_per_document < 2,
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
