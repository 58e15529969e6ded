import math

import pytest
import torch

from distilray.training.loop import Step
from distilray.training.meter import Meter, StepSize
from distilray.training.optimizer import Update
from tests.tiny.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def create_meter(clock):
    def meter(start_step=0, **settings):
        settings = {"total_steps": 100, "device": torch.device("cpu"), "wall_clock": lambda: 1.76e9, **settings}
        return Meter(start_step, clock=clock, **settings)

    return meter


@pytest.fixture
def add_steps(clock):
    def add(meter, losses, seconds=2.0, **numbers):
        """Add steps with these losses; None is a step whose gradient is not finite."""
        for loss in losses:
            clock.now += seconds
            terms = {"loss": math.inf if loss is None else loss}
            meter.add(terms, skipped=loss is None, **{"tokens": 30, "padded_tokens": 40, **numbers})

    return add


def test_a_row_averages_the_steps_since_the_last_one(create_meter, add_steps):
    meter = create_meter(start_step=40)
    add_steps(meter, [9.0, None, 9.0], seconds=7.0)
    assert meter.row(43)["skipped_steps"] == 1
    add_steps(meter, [1.0, 2.0, None, 6.0], seconds=2.0)
    row = meter.row(47)
    assert (row["step"], row["loss"], row["skipped_steps"], row["tokens_per_s"]) == (47, 3.0, 1, 15.0)
    assert row["eta_s"] == 53 * (3 * 7.0 + 4 * 2.0) / 7  # at the rate of all steps of this attempt
    assert row["time"] == 1.76e9


def test_a_term_is_nan_if_every_step_was_skipped(create_meter, add_steps):
    meter = create_meter()
    add_steps(meter, [None, None])
    assert math.isnan(meter.row(2)["loss"])


def test_terms_and_waiting_times_are_summed_over_the_workers(create_meter, add_steps, clock):
    # Another worker has the loss 3 and waited 3 of the 8 seconds.
    meter = create_meter(reduce=lambda values: [values[0] + 4 * 3.0, values[1] + 3.0, values[2] + 8.0])
    for step in range(4):
        meter.on_phase(step, 0, "data")
        clock.now += 0.25
        meter.on_phase(step, 0, "forward")
        add_steps(meter, [1.0], seconds=1.75)
    row = meter.row(4)
    assert (row["loss"], row["data_wait"]) == (4.0, 0.25)


def test_padding_is_the_share_of_padding_tokens(create_meter, add_steps):
    meter = create_meter()
    add_steps(meter, [1.0], tokens=30, padded_tokens=40)
    add_steps(meter, [1.0], tokens=30, padded_tokens=200)
    assert meter.row(2)["padding"] == 0.75


@pytest.mark.parametrize(("peak", "utilization"), [(1000.0, 0.25), (None, None)])
def test_utilization_is_the_rate_of_flops_over_the_peak_if_it_is_known(create_meter, add_steps, peak, utilization):
    meter = create_meter(peak_flops=peak)
    add_steps(meter, [1.0] * 4, seconds=2.0, flops=500.0)
    assert meter.row(4).get("mfu") == utilization


def test_due_steps_report_a_row_of_finite_values(create_meter, clock):
    rows = []
    meter = create_meter(
        total_steps=5, report=rows.append, every_steps=2, flops_of=lambda size: size.pairs, peak_flops=1.0
    )
    for done in range(1, 6):
        clock.now += 1.0
        update = Update(0.1, math.nan, is_skipped=done > 2)
        meter.after_step(Step(done, 5, {"loss": 2.0}, StepSize(30, 5, 900, 40), [], torch.ones(1), update))
    assert [(row["step"], row.get("loss"), row["mfu"]) for row in rows] == [
        (2, 2.0, 900),
        (4, None, 900),
        (5, None, 900),
    ]
    assert all(row["learning_rate"] == 0.1 and "grad_norm" not in row for row in rows)


def test_memory_without_a_gpu_is_that_of_the_process(create_meter, add_steps):
    meter = create_meter()
    memory = torch.ones(64_000_000, dtype=torch.uint8)
    add_steps(meter, [1.0])
    assert len(memory) / 1e9 < meter.row(1)["memory_gb"] < 200


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_gpu_is_the_peak_of_torch(create_meter, add_steps):
    meter = create_meter(device=torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.ones(64_000_000, dtype=torch.uint8, device="cuda")  # is freed at once
    add_steps(meter, [1.0])
    assert meter.row(1)["memory_gb"] == pytest.approx((before + 64e6) / 1e9, abs=3e-3)
