"""Efficiency benchmark as in table 3 of the DistilBERT paper: parameters, file size and CPU speed.

The models take turns, so that background load affects all of them alike.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.table import Table

from distilray.config.evaluation import MeasuredModelConfig, MeasureEfficiencyConfig
from distilray.console import print_tables
from distilray.evaluation.fill_mask_metrics import percentile
from distilray.finetuning.features import truncating_tokenizer
from distilray.finetuning.files import load_task
from distilray.formats.lines import first_lines
from distilray.inference.backends import MaskedLMBackend, local_masked_lm, open_masked_lm
from distilray.inference.encoding import length_sorted_batches, pad_batch
from distilray.models.architectures import architecture_of
from distilray.models.masked_lm import count_layer_parameters, count_parameters
from distilray.models.onnx_format import ONNX_FILE
from distilray.models.processor import cpu_features, cpu_name, format_cpu_features
from distilray.models.sources import WEIGHTS_FILE, is_onnx
from distilray.pretraining_data.batches import Batch
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome, Quantity
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder

TABLE_FILE = "efficiency.json"
_BUSY_LOAD = 0.5  # load average above which other processes distort the timings
_WARM_UP_INPUTS = 3  # untimed, because the CPU caches still contain the previous model


@dataclass(frozen=True)
class Texts:
    """Texts or text pairs to time."""

    first: Sequence[str]
    second: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class TimedModel:
    """A model and its inputs, encoded by its own tokenizer.

    Attributes:
        singles: batches of one input without padding.
        batches: the same inputs in padded batches of similar length.
    """

    model: MaskedLMBackend
    singles: Sequence[Batch]
    batches: Sequence[Batch]


@dataclass
class Timings:
    """Timings of one model.

    Attributes:
        latencies_ms: latency of each single input, in all rounds.
        round_latencies_ms: median latency of each round.
        batch_seconds: time for all batches in each round.
    """

    latencies_ms: list[float] = field(default_factory=list)
    round_latencies_ms: list[float] = field(default_factory=list)
    batch_seconds: list[float] = field(default_factory=list)


def plan_efficiency(config: MeasureEfficiencyConfig) -> dict[str, object]:
    """Validate the inputs of `measure_efficiency` and return its plan."""
    texts = _read_texts(config)
    for model in config.models:
        _load_timed_model(model, texts, config)
    return {
        "models": ", ".join(model.name for model in config.models),
        "texts": Quantity(
            f"{len(texts):,} {'pairs of STS-B' if texts.second else 'lines'}, {config.rounds} rounds",
            len(texts),
            "texts",
        ),
        "threads": _threads(config),
        "CPU": f"{cpu_name()}: {format_cpu_features(cpu_features())}",
    }


def measure_efficiency(config: MeasureEfficiencyConfig, folder: RunFolder) -> Outcome:
    """Time all models and write `efficiency.json`."""
    torch.set_num_threads(_threads(config))
    texts = _read_texts(config)
    models = {model.name: _load_timed_model(model, texts, config) for model in config.models}
    load = round(os.getloadavg()[0], 1)
    with Progress("measure_efficiency", total=config.rounds * len(models), unit="passes") as progress:
        timings = time_models(models, rounds=config.rounds, on_progress=lambda name: progress.advance(1, name))
    baseline = timings[config.models[0].name]
    sizes = {model.name: _model_size(model, models[model.name]) for model in config.models}
    speeds = {name: summarize_timings(timing, baseline, inputs=len(texts)) for name, timing in timings.items()}
    workload = {"texts": len(texts), "pairs": texts.second is not None}
    machine = {"cpu": cpu_name(), "features": cpu_features(), "threads": _threads(config), "load_before": load}
    table = {**workload, **machine, "models": {name: {**sizes[name], **speeds[name]} for name in models}}
    storage.write_bytes(folder.path(TABLE_FILE), json.dumps(table, indent=1).encode())
    latencies = [f"{name} {speed['latency_ms']:.1f} ms" for name, speed in speeds.items()]
    return Outcome(
        f"{len(texts):,} texts one at a time, {', '.join(latencies)}",
        {**workload, "models": sizes, "timing": {**machine, "models": speeds}},
    )


def show_efficiency(folder: RunFolder) -> None:
    """Print `efficiency.json` as a table."""
    results = json.loads(storage.read_bytes(folder.path(TABLE_FILE)))
    kind = "sentence pairs" if results["pairs"] else "texts"
    setup = f"{results['texts']:,} {kind}, {results['threads']} threads, {results['cpu']}"
    table = Table(title=f"efficiency: {setup}; x: speedup over the first model (range over rounds)")
    for heading in ("", "parameters", "MB", "ms, batch 1", "p95", "x", "texts/s", "x"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in results["models"].items():
        table.add_row(
            name,
            f"{row['parameters']:,}",
            f"{row['megabytes']:.1f}",
            f"{row['latency_ms']:.1f}",
            f"{row['latency_p95_ms']:.1f}",
            _with_range(row["latency_speedup"], row["latency_speedup_range"]),
            f"{row['texts_per_s']:,.0f}",
            _with_range(row["throughput_speedup"], row["throughput_speedup_range"]),
        )
    print_tables(table)
    if results["load_before"] > _BUSY_LOAD:
        print(
            f"the machine was already busy (load {results['load_before']}); "
            "repeat the measurement on an idle machine, with another run_dir"
        )


def time_models(
    models: Mapping[str, TimedModel],
    *,
    rounds: int,
    on_progress: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timings]:
    """Time all models on all inputs, `rounds` times; each round starts with a different model.

    Args:
        on_progress: called with the name of each model when it has finished a round.
        clock: returns seconds.
    """
    names = list(models)
    timings = {name: Timings() for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            _time_round(models[name], timings[name], clock)
            on_progress(name)
    return timings


def _time_round(timed: TimedModel, timings: Timings, clock: Callable[[], float]) -> None:
    for single in timed.singles[:_WARM_UP_INPUTS]:
        _forward(timed.model, single)
    latencies = []
    for single in timed.singles:
        started = clock()
        _forward(timed.model, single)
        latencies.append((clock() - started) * 1e3)
    timings.latencies_ms += latencies
    timings.round_latencies_ms.append(statistics.median(latencies))
    started = clock()
    for batch in timed.batches:
        _forward(timed.model, batch)
    timings.batch_seconds.append(clock() - started)


def _forward(model: MaskedLMBackend, batch: Batch) -> None:
    model.logits_at(batch.input_ids, batch.attention_mask, batch.mask_index, batch.token_type_ids)


def summarize_timings(timings: Timings, baseline: Timings, *, inputs: int) -> dict[str, float | list[float]]:
    """Return latency, throughput, and the speedups over the baseline with their range over the rounds."""
    latency_speedups = _speedups(baseline.round_latencies_ms, timings.round_latencies_ms)
    throughput_speedups = _speedups(baseline.batch_seconds, timings.batch_seconds)
    return {
        "latency_ms": statistics.median(timings.latencies_ms),
        "latency_p95_ms": percentile(timings.latencies_ms, 0.95),
        "texts_per_s": inputs / max(statistics.median(timings.batch_seconds), 1e-9),
        "latency_speedup": statistics.median(latency_speedups),
        "latency_speedup_range": [min(latency_speedups), max(latency_speedups)],
        "throughput_speedup": statistics.median(throughput_speedups),
        "throughput_speedup_range": [min(throughput_speedups), max(throughput_speedups)],
    }


def _speedups(baseline: Sequence[float], times: Sequence[float]) -> list[float]:
    return [base / max(own, 1e-9) for base, own in zip(baseline, times, strict=True)]


def _with_range(value: float, bounds: Sequence[float]) -> str:
    return f"{value:.2f} ({bounds[0]:.2f}-{bounds[1]:.2f})"


def _threads(config: MeasureEfficiencyConfig) -> int:
    return config.threads or os.cpu_count() or 1


def _read_texts(config: MeasureEfficiencyConfig) -> Texts:
    if config.text_path is not None:
        return Texts(first_lines(config.text_path, config.max_texts), None)
    assert config.glue_dir is not None
    dev = load_task(config.glue_dir, config.tasks[0]).dev["dev"]
    assert dev.second is not None
    return Texts(dev.first[: config.max_texts], dev.second[: config.max_texts])


def _load_timed_model(model: MeasuredModelConfig, texts: Texts, config: MeasureEfficiencyConfig) -> TimedModel:
    """Load a model and tokenize the texts with its own tokenizer."""
    folder = local_masked_lm(model.model_dir)
    backend = open_masked_lm(folder, threads=_threads(config))
    tokenizer_json = read_tokenizer(folder)
    max_length = min(config.max_length, backend.config.max_position_embeddings)
    singles = single_inputs(texts, tokenizer_json, max_length=max_length)
    pad_id = vocabulary_of(tokenizer_json).pad
    return TimedModel(backend, singles, padded_batches(singles, batch_size=config.batch_size, pad_id=pad_id))


def single_inputs(texts: Texts, tokenizer_json: str, *, max_length: int) -> list[Batch]:
    """Tokenize each text or pair as a batch of one, with its middle token masked.

    Raises:
        InputError: the tokenizer is not a BERT tokenizer.
    """
    tokenizer, vocabulary = truncating_tokenizer(tokenizer_json, max_length), vocabulary_of(tokenizer_json)
    pairs = texts.first if texts.second is None else list(zip(texts.first, texts.second, strict=True))
    batches = []
    for encoding in tokenizer.encode_batch(list(pairs)):
        ids, types = np.array([encoding.ids], dtype=np.int64), np.array([encoding.type_ids], dtype=np.int64)
        middle = np.array([ids.shape[1] // 2], dtype=np.int64)
        labels = ids[0, middle]
        ids[0, middle] = vocabulary.mask
        batches.append(Batch(ids, np.ones_like(ids), types, middle, labels))
    return batches


def padded_batches(singles: Sequence[Batch], *, batch_size: int, pad_id: int) -> list[Batch]:
    """Group single inputs of similar length into padded batches."""
    lengths = [single.input_ids.shape[1] for single in singles]
    groups = length_sorted_batches(lengths, max_rows=batch_size, max_tokens=batch_size * max(lengths, default=1))
    return [_stack([singles[row] for row in group], pad_id) for group in groups]


def _stack(rows: Sequence[Batch], pad_id: int) -> Batch:
    ids, attention = pad_batch([row.input_ids[0] for row in rows], pad_id)
    types, _ = pad_batch([row.token_type_ids[0] for row in rows], 0)
    index = np.concatenate([number * ids.shape[1] + row.mask_index for number, row in enumerate(rows)])
    labels = np.concatenate([row.mask_labels for row in rows])
    return Batch(ids, attention, types, index, labels)


def _model_size(model: MeasuredModelConfig, timed: TimedModel) -> Mapping[str, Any]:
    """Return parameter counts and file size.

    Parameters are counted in an empty model of the same architecture, because a quantized file also contains scales.
    """
    settings = timed.model.config
    with torch.device("meta"):
        empty_model = architecture_of(settings).new_masked_lm(settings)
    file = ONNX_FILE if is_onnx(model.model_dir) else WEIGHTS_FILE
    return {
        "parameters": count_parameters(empty_model),
        "layer_parameters": count_layer_parameters(empty_model),
        "megabytes": (storage.file_size(storage.join(local_masked_lm(model.model_dir), file)) or 0) / 1e6,
    }
