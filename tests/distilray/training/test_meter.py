import math

import pytest
import torch

from distilray.training.meter import Meter

CPU = torch.device("cpu")


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def meter_of(clock, start_step=0, **settings):
    settings = {"total_steps": 100, "device": CPU, **settings}
    return Meter(start_step, clock=clock, wall_clock=lambda: 1_760_000_000.0, **settings)


def add_steps(meter, clock, losses, seconds=2.0, **numbers):
    """Steps with these losses; None is a step whose gradient is not finite."""
    for loss in losses:
        clock.now += seconds
        terms = {"loss": math.inf if loss is None else loss}
        meter.add(terms, skipped=loss is None, **{"tokens": 30, "slots": 40, **numbers})


def test_a_term_is_the_mean_over_the_steps_since_the_last_row(clock):
    meter = meter_of(clock)
    add_steps(meter, clock, [9.0, 9.0])
    meter.row(2)
    add_steps(meter, clock, [1.0, 2.0, 6.0])
    assert meter.row(5)["loss"] == 3.0


def test_shares_of_a_term_add_up_over_the_workers(clock):
    meter = meter_of(clock, reduce=lambda values: [4 * value for value in values])
    add_steps(meter, clock, [1.0, 2.0])
    assert meter.row(2)["loss"] == 6.0


def test_a_skipped_step_does_not_count_in_the_terms(clock):
    meter = meter_of(clock)
    add_steps(meter, clock, [1.0, None, 3.0])
    assert meter.row(3)["loss"] == 2.0


def test_skipped_steps_are_counted_since_the_last_row(clock):
    meter = meter_of(clock)
    add_steps(meter, clock, [1.0, None, None])
    first = meter.row(3)["skipped_steps"]
    add_steps(meter, clock, [1.0, None])
    assert (first, meter.row(5)["skipped_steps"]) == (2, 1)


def test_a_term_is_no_number_when_every_step_was_skipped(clock):
    meter = meter_of(clock)
    add_steps(meter, clock, [None, None])
    assert math.isnan(meter.row(2)["loss"])


def test_tokens_per_second_are_those_since_the_last_row(clock):
    meter = meter_of(clock)
    add_steps(meter, clock, [1.0] * 3, seconds=7.0)
    meter.row(3)
    add_steps(meter, clock, [1.0] * 4, seconds=2.0, tokens=30)
    assert meter.row(7)["tokens_per_s"] == 15.0


def test_padding_is_the_share_of_the_slots_that_hold_no_token(clock):
    meter = meter_of(clock)
    add_steps(meter, clock, [1.0], tokens=30, padded_tokens=40)
    add_steps(meter, clock, [1.0], tokens=30, padded_tokens=200)
    assert meter.row(2)["padding"] == 0.75


def test_data_wait_is_the_share_of_the_time_that_the_workers_waited(clock):
    # Another worker waited 3 of the 8 seconds.
    meter = meter_of(clock, reduce=lambda values: [*values[:-2], values[-2] + 3.0, values[-1] + 8.0])
    for step in range(4):
        meter.on_phase(step, 0, "data")
        clock.now += 0.25
        meter.on_phase(step, 0, "forward")
        add_steps(meter, clock, [1.0], seconds=1.75)
    assert meter.row(4)["data_wait"] == 0.25


def test_utilisation_is_the_rate_of_flops_over_the_peak(clock):
    meter = meter_of(clock, peak_flops=1000.0)
    add_steps(meter, clock, [1.0] * 4, seconds=2.0, flops=500.0)
    assert meter.row(4)["mfu"] == 0.25


def test_there_is_no_utilisation_when_the_peak_is_unknown(clock):
    meter = meter_of(clock, peak_flops=None)
    add_steps(meter, clock, [1.0], flops=500.0)
    assert "mfu" not in meter.row(1)


def test_the_time_left_follows_from_the_pace_of_this_attempt(clock):
    meter = meter_of(clock, start_step=40, total_steps=100)
    add_steps(meter, clock, [1.0] * 5, seconds=1.0)
    meter.row(45)
    add_steps(meter, clock, [1.0] * 5, seconds=3.0)
    assert meter.row(50)["eta_s"] == 50 * 2.0


def test_memory_without_a_gpu_is_what_the_process_has_touched(clock):
    meter = meter_of(clock)
    touched = torch.ones(64_000_000, dtype=torch.uint8)
    add_steps(meter, clock, [1.0])
    assert len(touched) / 1e9 < meter.row(1)["memory_gb"] < 200


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_gpu_is_the_most_that_was_allocated(clock):
    meter = meter_of(clock, device=torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.ones(64_000_000, dtype=torch.uint8, device="cuda")  # is freed at once
    add_steps(meter, clock, [1.0])
    assert meter.row(1)["memory_gb"] == pytest.approx((before + 64e6) / 1e9, abs=3e-3)
