"""What a training run would do: its models, steps, memory, time and cost, and what it writes."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
import yaml

from distilray.config.distillation import (
    DistillConfig,
    EstimateConfig,
    RhythmConfig,
    TrainingConfig,
    TrainTeacherConfig,
)
from distilray.distillation.preparation import model_size
from distilray.distillation.teacher_cache.cache import TeacherCache
from distilray.distillation.teacher_cache.compatibility import check_cache
from distilray.distillation.teacher_cache.cost import cache_plan
from distilray.errors import InputError
from distilray.models.masked_lm import count_parameters, load_masked_lm, preferred_dtype, start_head_bias
from distilray.models.model_source import local_model
from distilray.models.student import create_student
from distilray.pretraining_data.shards import ShardSet, splits_of_run
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from distilray.runtime import storage
from distilray.runtime.reporting.metrics import read_metrics
from distilray.runtime.reporting.progress import duration
from distilray.runtime.reporting.trackers import check_trackers
from distilray.runtime.run_folder import CONFIG_FILE, METRICS_FILE

_STATE_BYTES = 16  # of a trained parameter: itself, its gradient and two moments, in fp32
SAVED_BYTES = 12  # of a trained parameter in a checkpoint: itself and two moments
_GB = 1e9


def create_teacher(config: TrainTeacherConfig) -> tuple[Any, None]:
    """The model that `train_teacher` trains: the warm start with its vocabulary head, fresh if it has none."""
    model = load_masked_lm(local_model(config.encoder_dir), fresh_head=True)
    start_head_bias(model, ShardSet(config.shards_dir, "train").token_counts())
    return model, None


def create_student_and_teacher(config: DistillConfig) -> tuple[Any, Any | None]:
    """The student that `distill` trains, and its frozen teacher; a teacher that is cached only gives its weights."""
    teacher = load_masked_lm(local_model(config.teacher_dir))
    return student_of(teacher, config)[0], teacher if config.teacher_cache_dir is None else None


def student_of(teacher: Any, config: DistillConfig) -> tuple[Any, Mapping[str, str]]:
    """The student as it begins, and where each of its tensors comes from."""
    given = config.student
    seed = config.seed if given.initialisation == "random" else None
    return create_student(teacher, layers=given.layers, fold_segment_a=given.fold_segment_a, random_seed=seed)


def plan_teacher(config: TrainTeacherConfig) -> dict[str, object]:
    """Validates the inputs of `train_teacher` and says what it would do."""
    model, _ = create_teacher(config)
    return {"parameters": f"{count_parameters(model):,}", **_plan(config, local_model(config.encoder_dir), model, None)}


def plan_distillation(config: DistillConfig) -> dict[str, object]:
    """Validates the inputs of `distill` and says what it would do."""
    folder = local_model(config.teacher_dir)
    teacher = load_masked_lm(folder)
    student, _ = student_of(teacher, config)
    check_layer_map(config, student, teacher)
    check_cache(config)
    open_cache(config)
    share = count_parameters(student) / count_parameters(teacher)
    return {
        "teacher": f"{count_parameters(teacher):,} parameters, {teacher.config.num_hidden_layers} layers",
        "student": f"{count_parameters(student):,} parameters ({share:.0%}), {student.config.n_layers} layers",
        "losses": ", ".join(f"{alpha:g} {name}" for name, alpha in config.losses.alphas.items() if alpha)
        + f", temperature {config.losses.temperature:g}, {config.losses.reductions} reductions",
        "teacher cache": cache_plan(config, model_size(teacher).dim),
        **_plan(config, folder, student, teacher if config.teacher_cache_dir is None else None),
    }


def check_layer_map(config: DistillConfig, student: Any, teacher: Any) -> None:
    """Refuses pairs of layers that the models do not have.

    Raises:
        InputError: naming the pair.
    """
    layers = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    for pair in config.losses.layer_map or []:
        for layer, count, name in zip(pair, layers, ("student", "teacher"), strict=True):
            if layer >= count:
                raise InputError(f"losses.layer_map: the {name} has layers 0 to {count - 1}, not {layer}")


def open_shards(config: TrainingConfig, tokenizer_json: str, *, verify: bool = False) -> ShardSet:
    """The train split, if it was encoded with that tokenizer."""
    return ShardSet(config.shards_dir, "train", tokenizer_hash=tokenizer_hash(tokenizer_json), verify=verify)


def open_cache(config: DistillConfig, *, verify: bool = False) -> None:
    """Finds the files of the teacher's cache, if the run reads one, for every split.

    Raises:
        InputError: one is missing, torn or changed.
    """
    if config.teacher_cache_dir is None:
        return
    for split in sorted(splits_of_run(config.shards_dir)):
        shards = ShardSet(config.shards_dir, split)
        TeacherCache(config.teacher_cache_dir, shards, config.losses.compared_positions, verify=verify)


def total_steps(config: TrainingConfig, examples: int) -> int:
    """Optimiser steps of a run: `max_steps`, or as many as the epochs hold."""
    return config.max_steps or max(1, math.floor(config.epochs * examples / config.batch_size))


def _plan(config: TrainingConfig, tokenizer_dir: str, model: Any, teacher: Any | None) -> dict[str, object]:
    check_trackers(config.trackers.also, config.run_dir)
    shards = open_shards(config, read_tokenizer(tokenizer_dir))
    steps = total_steps(config, len(shards))
    tokens = int(shards.tokens / len(shards) * config.batch_size * steps)
    workers, rhythm = config.scaling.num_workers, config.rhythm
    written_gb, kept_gb = checkpoint_gb(count_parameters(model), steps, rhythm)
    memory_gb = worker_memory_gb(config, max_seq_length=shards.max_seq_length, model=model, teacher=teacher)
    return {
        "shards": f"{config.shards_dir}: {len(shards):,} examples, {shards.tokens:,} tokens",
        "steps": f"{steps:,} of {config.batch_size:,} examples ({steps * config.batch_size / len(shards):.2f} epochs)",
        "tokens": f"{tokens:,}",
        "workers": f"{workers} x {'1 GPU' if config.scaling.use_gpu else 'CPU'}"
        + (f", down to {config.scaling.min_workers}" if config.scaling.min_workers else ""),
        "memory": f"about {memory_gb:.1f} GB for each worker",
        "time": time_and_cost(config.estimate, tokens, workers=workers, measured_rate=rate_of_run),
        "checkpoints": f"every {rhythm.checkpoint_every_steps:,} steps, {rhythm.keep_checkpoints} kept and the best",
        "bytes written": f"about {written_gb:,.1f} GB in all, {kept_gb:,.1f} GB of them stay",
    }


def worker_memory_gb(config: TrainingConfig, *, max_seq_length: int, model: Any, teacher: Any | None) -> float:
    """Weights, gradients and moments; activations of a micro-batch of full length; the rows of the vocabulary in work.

    Activations of a layer: tokens x dim x (34 + 5 x heads x length / dim) bytes in 16 bits (Korthikanti et al. 2022,
    equation 2), or 2 x tokens x dim with activation checkpointing. A teacher keeps those of one layer at a time.

    Args:
        max_seq_length: tokens of the longest example.
        model: the model that is trained; only its shape counts, so that it may be on the meta device.
    """
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    wide = config.precision == "fp32" or (
        config.precision == "auto" and device.type == "cpu" and preferred_dtype(device) == torch.float32
    )
    size, heads = model_size(model), model.config.num_attention_heads
    tokens, width = config.micro_batch_size * max_seq_length, 2 if wide else 1
    layer = tokens * size.dim * (34 + 5 * heads * max_seq_length / size.dim) * width
    live = (
        size.layers * 2 * tokens * size.dim * width + layer if config.activation_checkpointing else size.layers * layer
    )
    state = count_parameters(model) * _STATE_BYTES
    if teacher is not None:
        state += count_parameters(teacher) * 2 * width
        live += layer / 2
    return float(state + live + 4 * 512 * size.vocabulary * 4) / _GB


def checkpoint_gb(parameters: int, steps: int, rhythm: RhythmConfig) -> tuple[float, float]:
    """What checkpoints and the model take on the disk: written in all, and still there at the end.

    Args:
        parameters: of the trained model.
        steps: optimiser steps of the run.
    """
    saved = parameters * SAVED_BYTES / _GB
    kept = rhythm.keep_checkpoints + 1
    return steps / rhythm.checkpoint_every_steps * saved + saved / 3, kept * saved + saved / 3


def time_and_cost(estimate: EstimateConfig, tokens: int, *, workers: int, measured_rate: Callable[[str], float]) -> str:
    """Hours and money for some tokens, or what to set to know them.

    Args:
        measured_rate: run folder -> tokens per second of one worker in it.
    """
    rate, origin = estimate.tokens_per_s, "stated"
    if rate is None and estimate.measured_in is not None:
        rate, origin = measured_rate(estimate.measured_in), f"measured in {estimate.measured_in}"
    if rate is None:
        return "unknown: set estimate.tokens_per_s or estimate.measured_in"
    hours = tokens / (rate * workers) / 3600
    told = [f"about {duration(hours * 3600)} at {rate:,.0f} tokens/s of a worker ({origin})"]
    told.append(f"{hours * workers:,.1f} worker hours")
    if estimate.price_per_hour is not None:
        told.append(f"{hours * workers * estimate.price_per_hour:,.2f} in money")
    return ", ".join(told)


def rate_of_run(run_dir: str) -> float:
    """Tokens per second of one worker in an earlier run, median of its rows.

    Raises:
        InputError: no such run, or it has no rows.
    """
    rows = read_metrics(storage.join(run_dir, METRICS_FILE))
    rates = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    config = storage.join(run_dir, CONFIG_FILE)
    if not rates or not storage.exists(config):
        raise InputError(f"estimate.measured_in: {run_dir} holds no training run with metrics; name one that does")
    workers = yaml.safe_load(storage.read_bytes(config))["config"]["scaling"]["num_workers"]
    return statistics.median(rates) / int(workers)
