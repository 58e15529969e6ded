import numpy as np
import pytest

from distilray.evaluation.efficiency import TimedModel, Timings, padded_batches, summarize_timings, time_models
from distilray.pretraining_data.batches import Batch


def single(length, start):
    ids = np.arange(start, start + length)[None]
    place = np.array([length // 2])
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids), place, ids[0, place])


class Clock:
    """Moves on only when a model works."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now


class Model:
    config = None

    def __init__(self, name, clock, seconds):
        self.name, self.clock, self.seconds = name, clock, seconds

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        self.clock.calls.append((self.name, len(input_ids)))
        self.clock.now += self.seconds


@pytest.fixture
def timed():
    clock = Clock()
    singles = [single(5, 10), single(9, 20), single(5, 40), single(7, 50), single(6, 60)]
    batches = padded_batches(singles, batch_size=2, pad_id=0)
    models = {name: TimedModel(Model(name, clock, seconds), singles, batches)
              for name, seconds in (("slow", 0.4), ("fast", 0.1))}  # fmt: skip
    return clock, models


def test_batches_hold_every_input_once_the_longest_first():
    singles = [single(5, 10), single(9, 20), single(7, 40)]
    batches = padded_batches(singles, batch_size=2, pad_id=0)
    assert [batch.input_ids.shape for batch in batches] == [(2, 9), (1, 5)]
    first, last = batches
    assert first.input_ids[1].tolist() == [*range(40, 47), 0, 0]
    assert first.attention_mask[1].tolist() == [1] * 7 + [0] * 2
    assert first.input_ids.reshape(-1)[first.mask_index].tolist() == first.mask_labels.tolist() == [24, 43]
    assert last.mask_index.tolist() == [2]


def test_every_round_times_all_models_and_begins_with_another(timed):
    clock, models = timed
    on_progress = []
    found = time_models(models, rounds=3, on_progress=on_progress.append, clock=clock)
    assert on_progress == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert [len(timings.latencies_ms) for timings in found.values()] == [15, 15]
    assert found["slow"].latencies_ms == pytest.approx([400] * 15)
    assert found["fast"].batch_seconds == pytest.approx([0.3] * 3)


def test_the_first_inputs_of_a_round_warm_up_uncounted(timed):
    clock, models = timed
    time_models({"slow": models["slow"]}, rounds=1, on_progress=lambda name: None, clock=clock)
    assert [rows for _, rows in clock.calls] == [1] * 3 + [1] * 5 + [2, 2, 1]


def test_the_summary_says_how_many_times_faster_than_the_first():
    first = Timings([4.0] * 10, [4.0, 4.0, 8.0], [2.0, 2.0, 2.0])
    own = Timings([*[1.0] * 9, 5.0], [1.0, 2.0, 2.0], [0.5, 0.4, 1.0])
    found = summarize_timings(own, first, inputs=100)
    assert (found["latency_ms"], found["latency_p95_ms"]) == (1.0, 5.0)
    assert found["texts_per_s"] == 200.0
    assert found["latency_speedup"] == 4.0
    assert found["latency_speedup_range"] == [2.0, 4.0]
    assert found["throughput_speedup"] == 4.0
    assert found["throughput_speedup_range"] == [2.0, 5.0]
    assert summarize_timings(first, first, inputs=100)["latency_speedup"] == 1.0
