"""Steps, memory, bytes, time and money of a training run.

What a cache of a teacher takes on a disk.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
import yaml

from distilray.config.distillation import (
    TOP_K,
    DistillConfig,
    EstimateConfig,
    IntervalsConfig,
    Positions,
    TrainingConfig,
)
from distilray.distillation.teacher_cache import cache_content
from distilray.errors import InputError
from distilray.models.flops import model_size
from distilray.models.masked_lm import count_parameters
from distilray.models.precision import preferred_dtype
from distilray.runtime import storage
from distilray.runtime.job import Quantity
from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import CONFIG_FILE, METRICS_FILE, read_manifest

_HIDDEN_BYTES = 2  # of a dimension
_CANDIDATE_BYTES = 6  # of a token that is kept: 2 for its id, 4 for its logarithm
_MB = 1e6


def cache_bytes(shards_dir: str, *, dim: int, top_k: int, positions: Positions) -> dict[str, int]:
    """Bytes by split: 2 x dim for each token, and 6 x k for each position."""
    content = read_manifest(shards_dir)["content"]
    found: dict[str, int] = {}
    for entry in content["outputs"].values():
        if "split" in entry:
            found[entry["split"]] = found.get(entry["split"], 0) + entry["tokens"]
    return {
        split: tokens * _HIDDEN_BYTES * dim
        + (tokens if positions == "all" else content["counts"][split]["predicted"]) * _CANDIDATE_BYTES * top_k
        for split, tokens in found.items()
    }


def describe_cache(config: DistillConfig, dim: int) -> str:
    """What a distillation says of the cache that it uses, or could use."""
    if config.teacher_cache_dir is not None:
        content = cache_content(config.teacher_cache_dir)
        size = sum(entry["bytes"] for entry in content["outputs"].values())
        made, kept = content["config"], content["counts"]["train"]["kept_probability"]
        return (
            f"used instead of the teacher: {config.teacher_cache_dir}, {format_bytes(size)}, top_k {made['top_k']} "
            f"({kept:.1%} of the probability) at {made['positions']} tokens"
        )
    if read_manifest(config.shards_dir)["content"]["config"]["masking"]["dynamic"]:
        return "none possible: masks are drawn in every epoch"
    positions = config.losses.compared_positions
    size = sum(cache_bytes(config.shards_dir, dim=dim, top_k=TOP_K, positions=positions).values())
    return f"would take about {format_bytes(size)} with top_k {TOP_K} at {positions} tokens"


def format_bytes(size: float) -> str:
    """Bytes for people."""
    return f"{size / _GB:,.1f} GB" if size >= _GB / 10 else f"{size / _MB:,.1f} MB"


def format_split_sizes(sizes: Mapping[str, int]) -> str:
    """The bytes of each split for people."""
    return ", ".join(f"{size:,} for {split} ({format_bytes(size)})" for split, size in sizes.items())


_STATE_BYTES = 16  # of a trained parameter: itself, its gradient and two moments, in fp32
SAVED_BYTES = 12  # of a trained parameter in a checkpoint: itself and two moments
_GB = 1e9


def total_steps(config: TrainingConfig, examples: int) -> int:
    """Optimiser steps of a run: `max_steps`, or as many as the epochs hold."""
    return config.max_steps or max(1, math.floor(config.epochs * examples / config.batch_size))


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


def checkpoint_gb(parameters: int, steps: int, intervals: IntervalsConfig) -> tuple[float, float]:
    """Return the gigabytes of checkpoints and the model: written during the run, and kept at its end.

    Args:
        parameters: of the trained model.
        steps: optimiser steps of the run.
    """
    saved = parameters * SAVED_BYTES / _GB
    written = math.ceil(steps / intervals.checkpoint_every_steps)  # the last step is saved too
    kept = min(intervals.keep_checkpoints + 1, written)  # the newest, and the best
    return written * saved + saved / 3, kept * saved + saved / 3


def time_and_cost(estimate: EstimateConfig, tokens: int, *, workers: int, measured_rate: Callable[[str], float]) -> str:
    """Hours and money for some tokens, or what to set to know them.

    Args:
        measured_rate: run folder -> tokens per second of one worker in it.
    """
    rate, origin = estimate.tokens_per_s, "stated"
    if rate is None and estimate.measured_run_dir is not None:
        rate, origin = measured_rate(estimate.measured_run_dir), f"measured in {estimate.measured_run_dir}"
    if rate is None:
        return "unknown: set estimate.tokens_per_s or estimate.measured_run_dir"
    hours = tokens / (rate * workers) / 3600
    told = [f"about {format_duration(hours * 3600)} at {rate:,.0f} tokens/s of a worker ({origin})"]
    told.append(f"{hours * workers:,.1f} worker hours")
    if estimate.price_per_hour is not None:
        told.append(f"{hours * workers * estimate.price_per_hour:,.2f} in money")
    return Quantity(", ".join(told), hours * 3600, "s")


def measured_tokens_per_s(run_dir: str) -> float:
    """Tokens per second of one worker in an earlier run, median of its rows.

    Raises:
        InputError: no such run, or it has no rows.
    """
    rows = read_metrics(storage.join(run_dir, METRICS_FILE))
    rates = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    config = storage.join(run_dir, CONFIG_FILE)
    if not rates or not storage.exists(config):
        raise InputError(f"estimate.measured_run_dir: {run_dir} holds no training run with metrics; name one that does")
    workers = yaml.safe_load(storage.read_bytes(config))["config"]["scaling"]["num_workers"]
    return statistics.median(rates) / int(workers)
