"""Estimates for training runs and teacher caches: steps, disk space, time and cost."""

import math
import statistics
from collections.abc import Callable, Mapping

import yaml

from distilray.config.cache_teacher import SAMPLES, TOP_K
from distilray.config.distillation import (
    DistillConfig,
    EstimateConfig,
    IntervalsConfig,
    Positions,
    TrainingConfig,
)
from distilray.distillation.teacher_cache import cache_content
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.job import Quantity
from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import format_duration
from distilray.runtime.run_folder import CONFIG_FILE, METRICS_FILE, read_manifest
from distilray.schemas import TEACHER_TARGETS

SAVED_BYTES = 12  # per trained parameter in a checkpoint: the parameter and two moments
_GB, _MB = 1e9, 1e6


def total_steps(config: TrainingConfig, examples: int) -> int:
    """Return the optimizer steps of a run: `max_steps`, or the number of steps in its epochs."""
    return config.max_steps or max(1, math.floor(config.epochs * examples / config.batch_size))


def checkpoint_gb(parameters: int, steps: int, intervals: IntervalsConfig) -> tuple[float, float]:
    """Return the gigabytes of checkpoints and model that a run writes, and those that remain at its end.

    Args:
        parameters: parameters of the trained model.
        steps: optimizer steps of the run.
    """
    saved = parameters * SAVED_BYTES / _GB
    written = math.ceil(steps / intervals.checkpoint_every_steps)  # the last step is always saved
    kept = min(intervals.keep_checkpoints + 1, written)  # the newest ones, and the best
    model = saved / 3  # without the two moments
    return written * saved + model, kept * saved + model


def time_and_cost(estimate: EstimateConfig, tokens: int, *, workers: int, measured_rate: Callable[[str], float]) -> str:
    """Return the estimated time and cost of processing some tokens, or the settings that an estimate needs.

    Args:
        measured_rate: returns the tokens per second of one worker in an earlier run folder.
    """
    rate, origin = estimate.tokens_per_s, "stated"
    if rate is None and estimate.measured_run_dir is not None:
        rate, origin = measured_rate(estimate.measured_run_dir), f"measured in {estimate.measured_run_dir}"
    if rate is None:
        return "unknown: set estimate.tokens_per_s or estimate.measured_run_dir"
    hours = tokens / (rate * workers) / 3600
    parts = [f"about {format_duration(hours * 3600)} at {rate:,.0f} tokens/s per worker ({origin})"]
    parts.append(f"{hours * workers:,.1f} worker hours")
    if estimate.price_per_hour is not None:
        parts.append(f"cost {hours * workers * estimate.price_per_hour:,.2f} (in the currency of price_per_hour)")
    return Quantity(", ".join(parts), hours * 3600, "s")


def measured_tokens_per_s(run_dir: str) -> float:
    """Return the tokens per second of one worker in an earlier training run (median over its log).

    Raises:
        InputError: the run does not exist or has no metrics.
    """
    rows = read_metrics(storage.join(run_dir, METRICS_FILE))
    rates = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    config = storage.join(run_dir, CONFIG_FILE)
    if not rates or not storage.exists(config):
        raise InputError(f"estimate.measured_run_dir: {run_dir} is not a training run with metrics; choose another run")
    workers = yaml.safe_load(storage.read_bytes(config))["config"]["scaling"]["num_workers"]
    return statistics.median(rates) / int(workers)


def cache_bytes(shards_dir: str, *, dim: int, stored: int, positions: Positions, hidden_states: bool) -> dict[str, int]:
    """Return the bytes of a teacher cache by split, without the offsets of Arrow's lists.

    Args:
        stored: tokens per position.
    """
    width = {field.name: field.type.value_type.bit_width // 8 for field in TEACHER_TARGETS}
    token_bytes = dim * width["hidden"] + width["hidden_scales"] if hidden_states else 0
    position_bytes = stored * (width["top_ids"] + width["top_log_probabilities"]) + width["rest"]
    content = read_manifest(shards_dir)["content"]
    tokens: dict[str, int] = {}
    for entry in content["outputs"].values():
        if "split" in entry:
            tokens[entry["split"]] = tokens.get(entry["split"], 0) + entry["tokens"]
    return {
        split: count * token_bytes
        + (count if positions == "all" else content["counts"][split]["predicted"]) * position_bytes
        for split, count in tokens.items()
    }


def describe_cache(config: DistillConfig, dim: int) -> str:
    """Describe the teacher cache that a distillation uses, or the size of the one that it could use."""
    if config.teacher_cache_dir is not None:
        content = cache_content(config.teacher_cache_dir)
        size = sum(entry["bytes"] for entry in content["outputs"].values())
        cached, kept = content["config"], content["counts"]["train"]["kept_probability"]
        text = _describe_targets(cached["top_k"], cached["samples"], cached["positions"], cached["hidden_states"])
        return (
            f"used instead of the teacher: {config.teacher_cache_dir}, {format_bytes(size)}, {text}; the first hold "
            f"{kept:.1%} of the probability"
        )
    if read_manifest(config.shards_dir)["content"]["config"]["masking"]["dynamic"]:
        return "none possible: masks are drawn in every epoch"
    positions, hidden_states = config.losses.compared_positions, config.losses.compares_last_hidden
    sizes = cache_bytes(
        config.shards_dir, dim=dim, stored=TOP_K + SAMPLES, positions=positions, hidden_states=hidden_states
    )
    text = _describe_targets(TOP_K, SAMPLES, positions, hidden_states)
    return f"would take about {format_bytes(sum(sizes.values()))} with {text}"


def _describe_targets(top_k: int, samples: int, positions: Positions, hidden_states: bool) -> str:
    states = "with" if hidden_states else "without"
    return f"top_k {top_k} and {samples} samples at {positions} tokens, {states} hidden states"


def format_bytes(size: float) -> str:
    return f"{size / _GB:,.1f} GB" if size >= _GB / 10 else f"{size / _MB:,.1f} MB"


def format_split_sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size:,} for {split} ({format_bytes(size)})" for split, size in sizes.items())
