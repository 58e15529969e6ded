import numpy as np
import pytest

from distilray.evaluation.efficiency import TimedModel, Timings, padded_batches, summarize_timings, time_models
from distilray.pretraining_data.batches import Batch


def single(length, start):
    ids = np.arange(start, start + length)[None]
    middle = np.array([length // 2])
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids), middle, ids[0, middle])


class Model:
    """A model that advances its clock by a fixed time per call."""

    config = None

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.rows = clock, seconds, []

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        self.rows.append(len(input_ids))
        self.clock[0] += self.seconds


def test_every_input_is_in_one_batch_and_the_longest_come_first():
    batches = padded_batches([single(5, 10), single(9, 20), single(7, 40)], batch_size=2, pad_id=0)
    assert [batch.input_ids.shape for batch in batches] == [(2, 9), (1, 5)]
    first, last = batches
    assert first.input_ids[1].tolist() == [*range(40, 47), 0, 0]
    assert first.attention_mask[1].tolist() == [1] * 7 + [0] * 2
    assert first.input_ids.reshape(-1)[first.mask_index].tolist() == first.mask_labels.tolist() == [24, 43]
    assert last.mask_index.tolist() == [2]


def test_models_take_turns_and_warm_up_before_each_round():
    clock, progress = [0.0], []
    singles = [single(5, 10), single(9, 20), single(5, 40), single(7, 50), single(6, 60)]
    batches = padded_batches(singles, batch_size=2, pad_id=0)
    models = {"slow": Model(clock, 0.4), "fast": Model(clock, 0.1)}
    timed = {name: TimedModel(model, singles, batches) for name, model in models.items()}
    timings = time_models(timed, rounds=3, on_progress=progress.append, clock=lambda: clock[0])
    assert progress == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert timings["slow"].latencies_ms == pytest.approx([400] * 15)
    assert timings["slow"].round_latencies_ms == pytest.approx([400] * 3)
    assert timings["fast"].latencies_ms == pytest.approx([100] * 15)
    assert timings["fast"].batch_seconds == pytest.approx([0.3] * 3)
    warm_up = [1] * 3  # not timed
    assert models["slow"].rows == [*warm_up, *[1] * 5, 2, 2, 1] * 3


def test_the_summary_has_the_speedups_over_the_first_model():
    first = Timings([4.0] * 10, [4.0, 4.0, 8.0], [2.0, 2.0, 2.0])
    own = Timings([*[1.0] * 9, 5.0], [1.0, 2.0, 2.0], [0.5, 0.4, 1.0])
    assert summarize_timings(own, first, inputs=100) == {
        "latency_ms": 1.0,
        "latency_p95_ms": 5.0,
        "texts_per_s": 200.0,
        "latency_speedup": 4.0,
        "latency_speedup_range": [2.0, 4.0],
        "throughput_speedup": 4.0,
        "throughput_speedup_range": [2.0, 5.0],
    }
    assert summarize_timings(first, first, inputs=100)["latency_speedup"] == 1.0
