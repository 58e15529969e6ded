"""The efficiency table in the manner of the DistilBERT paper (table 3): parameters, bytes, speed on this CPU.

How long models take for the same texts, timed in turn so that what else the machine does falls on all alike.
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
from rich.console import Console
from rich.table import Table

from distilray.config.evaluation import MeasuredModelConfig, MeasureEfficiencyConfig
from distilray.evaluation.fill_mask_metrics import percentile
from distilray.finetuning.features import truncating_tokenizer
from distilray.finetuning.files import load_task
from distilray.formats.lines import first_lines
from distilray.inference.backends import MaskedLMBackend, local_masked_lm, open_masked_lm
from distilray.inference.encoding import length_sorted_batches
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

_WARM_UP = 3  # inputs of each round that are not counted: caches and threads of the model before are still warm


@dataclass
class Timings:
    """What one model took.

    Attributes:
        latencies_ms: of every input alone, all rounds.
        round_latencies_ms: median of each round.
        batch_seconds: of all batches, each round.
    """

    latencies_ms: list[float] = field(default_factory=list)
    round_latencies_ms: list[float] = field(default_factory=list)
    batch_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TimedModel:
    """A model with the inputs of its own tokenizer.

    Attributes:
        singles: every input alone, without padding.
        batches: the same inputs, those of like length together.
    """

    model: MaskedLMBackend
    singles: Sequence[Batch]
    batches: Sequence[Batch]


def padded_batches(singles: Sequence[Batch], *, batch_size: int, pad_id: int) -> list[Batch]:
    """Single inputs as padded batches of like length."""
    lengths = [single.input_ids.shape[1] for single in singles]
    grouped = length_sorted_batches(lengths, max_rows=batch_size, max_tokens=batch_size * max(lengths, default=1))
    return [_padded([singles[row] for row in group], pad_id) for group in grouped]


def _padded(rows: Sequence[Batch], pad_id: int) -> Batch:
    width = max(row.input_ids.shape[1] for row in rows)

    def stacked(name: str, value: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        found = np.full((len(rows), width), value, dtype=np.int64)
        for number, row in enumerate(rows):
            ids = getattr(row, name)[0]
            found[number, : len(ids)] = ids
        return found

    index = np.concatenate([number * width + row.mask_index for number, row in enumerate(rows)])
    labels = np.concatenate([row.mask_labels for row in rows])
    ids, attention, types = stacked("input_ids", pad_id), stacked("attention_mask", 0), stacked("token_type_ids", 0)
    return Batch(ids, attention, types, index, labels)


def time_models(
    models: Mapping[str, TimedModel],
    *,
    rounds: int,
    on_progress: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timings]:
    """Times all models over all inputs, `rounds` times; each round begins with another model.

    Args:
        moved: called with the name of a model when its part of a round is done.
        clock: in seconds.
    """
    names = list(models)
    found = {name: Timings() for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            _time_round(models[name], found[name], clock)
            on_progress(name)
    return found


def _time_round(timed: TimedModel, timings: Timings, clock: Callable[[], float]) -> None:
    for single in timed.singles[:_WARM_UP]:
        _answer(timed.model, single)
    latencies = []
    for single in timed.singles:
        started = clock()
        _answer(timed.model, single)
        latencies.append((clock() - started) * 1e3)
    timings.latencies_ms += latencies
    timings.round_latencies_ms.append(statistics.median(latencies))
    started = clock()
    for batch in timed.batches:
        _answer(timed.model, batch)
    timings.batch_seconds.append(clock() - started)


def _answer(model: MaskedLMBackend, batch: Batch) -> None:
    model.logits_at(batch.input_ids, batch.attention_mask, batch.mask_index, batch.token_type_ids)


def summarize_timings(timings: Timings, first: Timings, *, inputs: int) -> dict[str, float | list[float]]:
    """What the table says of a model: latency, throughput, and how many times faster than the first it is.

    `latency_speedup_range` and `throughput_speedup_range` are the lowest and highest of the rounds: how far noise goes.
    """
    latency = _ratios(first.round_latencies_ms, timings.round_latencies_ms)
    throughput = _ratios(first.batch_seconds, timings.batch_seconds)
    return {
        "latency_ms": statistics.median(timings.latencies_ms),
        "latency_p95_ms": percentile(timings.latencies_ms, 0.95),
        "texts_per_s": inputs / max(statistics.median(timings.batch_seconds), 1e-9),
        "latency_speedup": statistics.median(latency),
        "latency_speedup_range": [min(latency), max(latency)],
        "throughput_speedup": statistics.median(throughput),
        "throughput_speedup_range": [min(throughput), max(throughput)],
    }


def _ratios(first: Sequence[float], own: Sequence[float]) -> list[float]:
    return [a / max(b, 1e-9) for a, b in zip(first, own, strict=True)]


TABLE_FILE = "efficiency.json"
_BUSY = 0.5  # load average beyond which something else takes part of a core


@dataclass(frozen=True)
class Texts:
    """Inputs to time: texts, or pairs of texts."""

    first: Sequence[str]
    second: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.first)


def plan_efficiency(config: MeasureEfficiencyConfig) -> dict[str, object]:
    """Validates the inputs of `measure_efficiency` and says what it would do."""
    texts = _texts(config)
    for model in config.models:
        _timed(model, texts, config)
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
    """Times all models in turn; writes `efficiency.json`."""
    torch.set_num_threads(_threads(config))
    texts = _texts(config)
    models = {model.name: _timed(model, texts, config) for model in config.models}
    load = round(os.getloadavg()[0], 1)
    with Progress("measure_efficiency", total=config.rounds * len(models), unit="passes") as progress:
        timings = time_models(models, rounds=config.rounds, on_progress=lambda name: progress.advance(1, name))
    first = timings[config.models[0].name]
    sizes = {model.name: _size(model, models[model.name]) for model in config.models}
    measured = {name: summarize_timings(found, first, inputs=len(texts)) for name, found in timings.items()}
    about = {"texts": len(texts), "pairs": texts.second is not None}
    machine = {"cpu": cpu_name(), "features": cpu_features(), "threads": _threads(config), "load_before": load}
    table = {**about, **machine, "models": {name: {**sizes[name], **measured[name]} for name in models}}
    storage.write_bytes(folder.path(TABLE_FILE), json.dumps(table, indent=1).encode())
    told = [f"{name} {found['latency_ms']:.1f} ms" for name, found in measured.items()]
    return Outcome(
        f"{len(texts):,} texts one at a time, {', '.join(told)}",
        {**about, "models": sizes, "timing": {**machine, "models": measured}},
    )


def show_efficiency(folder: RunFolder) -> None:
    """Prints the table of `efficiency.json`."""
    found = json.loads(storage.read_bytes(folder.path(TABLE_FILE)))
    kind = "pairs of sentences" if found["pairs"] else "texts"
    about = f"{found['texts']:,} {kind}, {found['threads']} threads, {found['cpu']}"
    table = Table(title=f"efficiency: {about}; x = times as fast as the first (rounds)")
    for heading in ("", "parameters", "MB", "ms, batch 1", "p95", "x", "texts/s", "x"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in found["models"].items():
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
    Console(width=None if os.isatty(1) else 120).print(table)
    if found["load_before"] > _BUSY:
        print(
            f"the machine was busy before (load {found['load_before']}): time again on an idle one, in another run_dir"
        )


def _with_range(value: float, bounds: Sequence[float]) -> str:
    return f"{value:.2f} ({bounds[0]:.2f}-{bounds[1]:.2f})"


def _threads(config: MeasureEfficiencyConfig) -> int:
    return config.threads or os.cpu_count() or 1


def _texts(config: MeasureEfficiencyConfig) -> Texts:
    if config.text_path is not None:
        return Texts(first_lines(config.text_path, config.max_texts), None)
    assert config.glue_dir is not None
    dev = load_task(config.glue_dir, config.tasks[0]).dev["dev"]
    assert dev.second is not None
    return Texts(dev.first[: config.max_texts], dev.second[: config.max_texts])


def _timed(model: MeasuredModelConfig, texts: Texts, config: MeasureEfficiencyConfig) -> TimedModel:
    """The model, loaded, with the texts as its own tokenizer splits them."""
    folder = local_masked_lm(model.model_dir)
    loaded = open_masked_lm(folder, threads=_threads(config))
    tokenizer_json = read_tokenizer(folder)
    longest = min(config.max_length, loaded.config.max_position_embeddings)
    singles = single_inputs(texts, tokenizer_json, max_length=longest)
    pad_id = vocabulary_of(tokenizer_json).pad
    return TimedModel(loaded, singles, padded_batches(singles, batch_size=config.batch_size, pad_id=pad_id))


def single_inputs(texts: Texts, tokenizer_json: str, *, max_length: int) -> list[Batch]:
    """Every text or pair as an input of its own, with one mask in its middle: fill-mask asks for one word of a text.

    Raises:
        InputError: the tokenizer is none of BERT.
    """
    tokenizer, vocabulary = truncating_tokenizer(tokenizer_json, max_length), vocabulary_of(tokenizer_json)
    pairs = texts.first if texts.second is None else list(zip(texts.first, texts.second, strict=True))
    found = []
    for encoding in tokenizer.encode_batch(list(pairs)):
        ids, types = np.array([encoding.ids], dtype=np.int64), np.array([encoding.type_ids], dtype=np.int64)
        middle = np.array([ids.shape[1] // 2], dtype=np.int64)
        labels = ids[0, middle]
        ids[0, middle] = vocabulary.mask
        found.append(Batch(ids, np.ones_like(ids), types, middle, labels))
    return found


def _size(model: MeasuredModelConfig, timed: TimedModel) -> Mapping[str, Any]:
    """Parameters as its configuration says (a quantised file also holds scales), bytes as its file has."""
    settings = timed.model.config
    with torch.device("meta"):
        counted = architecture_of(settings).new_masked_lm(settings)
    file = ONNX_FILE if is_onnx(model.model_dir) else WEIGHTS_FILE
    return {
        "parameters": count_parameters(counted),
        "layer_parameters": count_layer_parameters(counted),
        "megabytes": (storage.file_size(storage.join(local_masked_lm(model.model_dir), file)) or 0) / 1e6,
    }
