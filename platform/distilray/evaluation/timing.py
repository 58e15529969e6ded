"""How long models take for the same texts, timed in turn so that what else the machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distilray.evaluation.metrics import percentile
from distilray.inference.backends import MaskedLogits
from distilray.inference.encoding import length_sorted_batches
from distilray.pretraining_data.batches import Batch

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

    model: MaskedLogits
    singles: Sequence[Batch]
    batches: Sequence[Batch]


def batches_of(singles: Sequence[Batch], *, batch_size: int, pad_id: int) -> list[Batch]:
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
    moved: Callable[[str], None],
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
            moved(name)
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


def _answer(model: MaskedLogits, batch: Batch) -> None:
    model.logits_at(batch.input_ids, batch.attention_mask, batch.mask_index, batch.token_type_ids)


def summary_of(timings: Timings, first: Timings, *, inputs: int) -> dict[str, float | list[float]]:
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
