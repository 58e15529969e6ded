import dataclasses
import math

import numpy as np
import pytest

from distilray.config.plan import SlowdownsConfig
from distilray.errors import InputError
from distilray.operations.plan.simulation import STEP_PARTS, TrainingModel, run_times, scaled_runs

WORKERS = [1, 2, 3, 4, 7, 8, 16, 32, 64]
REAL = TrainingModel(
    steps=3000,
    examples=2048,
    tokens=1e6,
    micro_batch_size=32,
    compute_s=8.0,
    backward_share=0.4,
    gradient_bytes=268e6,
    update_bytes=1.9e9,
    checkpoint_every_steps=10,
    checkpoint_s=0.2,
    heldout_s=3.0,
    heldout_evaluations=4,
    workers_per_machine=8,
    micro_step_floor_s=0.01,
    memory_rate=1.5e12,
    link_rate=200e9,
    network_rate=1e9,
)
PERFECT = dataclasses.replace(
    REAL,
    checkpoint_s=0.0,
    heldout_s=0.0,
    heldout_evaluations=0,
    micro_step_floor_s=0.0,
    memory_rate=math.inf,
    link_rate=math.inf,
    network_rate=math.inf,
    latency_s=0.0,
    input_rate=math.inf,
)


def disturbed(per_hour=0.0, *, stragglers=0.02, restart_s=100.0, preemption_notice=False):
    return SlowdownsConfig(
        straggler_mean=stragglers,
        preemptions_per_machine_hour=per_hour,
        restart_s=restart_s,
        preemption_notice=preemption_notice,
    )


def runs(model=REAL, *, workers=WORKERS, stragglers=0.02, per_hour=0.0, seed=1):
    return scaled_runs(model, workers, disturbed(per_hour, stragglers=stragglers), seed=seed, trials=20)


def one_run(workers, *, stragglers=0.0, **changes):
    """Return the run of a perfect machine with changes."""
    (run,) = runs(dataclasses.replace(PERFECT, **changes), stragglers=stragglers, workers=[workers])
    return run


@pytest.mark.parametrize("model", [REAL, PERFECT, dataclasses.replace(REAL, cores=2.0, max_machines=1)])
@pytest.mark.parametrize("per_hour", [0.0, 0.3])
def test_throughput_is_at_most_that_of_ideal_scaling(model, per_hour):
    for run in runs(model, per_hour=per_hour):
        assert run.tokens_per_s <= run.workers * REAL.tokens / REAL.compute_s * (1 + 1e-12)
        assert 0 < run.efficiency <= 1 + 1e-12


def test_without_anything_to_wait_for_the_efficiency_is_1():
    assert [run.efficiency for run in runs(PERFECT, stragglers=0.0)] == pytest.approx([1.0] * len(WORKERS))


@pytest.mark.parametrize(
    "change",
    [
        {"latency_s": 0.01},
        {"link_rate": 1e8},
        {"memory_rate": 1e9},
        {"micro_step_floor_s": 1.0},
        {"input_rate": 1e4},
        {"cores": 4.0},
    ],
)
def test_each_limit_alone_reduces_the_efficiency(change):
    assert one_run(8, **change).efficiency < 0.99


def test_a_run_is_its_steps_in_hours_and_a_step_its_parts():
    for run in runs():
        assert set(run.parts) == set(STEP_PARTS)
        assert run.hours == pytest.approx(3000 * sum(run.parts.values()) / 3600)
        assert run.tokens_per_s == pytest.approx(REAL.tokens / run.step_s)


def test_a_seed_determines_the_runs():
    assert runs(per_hour=0.3) == runs(per_hour=0.3)
    assert runs(per_hour=0.3) != runs(per_hour=0.3, seed=2)
    assert (times(0.5)[0] == times(0.5)[0]).all()
    assert (times(0.5)[0] != times(0.5, seed=4)[0]).any()


def test_the_last_of_n_stragglers_is_late_by_the_harmonic_number():
    # The mean of the largest of n exponential delays is their mean times 1 + 1/2 + ... + 1/n.
    run = one_run(16, stragglers=0.1)
    expected = 0.1 * sum(1 / number for number in range(1, 17))
    assert run.parts["stragglers"] / run.parts["compute"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("workers", "changes", "seconds"),
    [
        (1, {}, 0.0),
        (8, {}, 2 * 7 / 8 * 1e9 / 200e9),
        (16, {}, 2 * 15 / 16 * 1e9 / 1e9),  # the network is the slowest hop
        (2, {"workers_per_machine": 1, "link_rate": 1.0}, 1e9 / 1e9),  # no link is used
        (4, {"latency_s": 0.5}, 2 * 3 / 4 * 1e9 / 200e9 + 2 * 3 * 0.5),
    ],
)
def test_a_ring_moves_twice_the_bytes_less_one_share_over_the_slowest_hop(workers, changes, seconds):
    model = dataclasses.replace(REAL, **{"latency_s": 0.0, "gradient_bytes": 1e9, **changes})
    assert model.all_reduce_s(workers) == pytest.approx(seconds)


def test_an_exchange_hides_behind_the_backward_pass_of_the_last_micro_batch_only():
    exposed = {overlap: one_run(8, link_rate=2e9, overlap=overlap).parts["all-reduce"] for overlap in (0.0, 0.5, 1.0)}
    exchange, backward = 2 * 7 / 8 * 268e6 / 2e9, 0.4 * 8.0 / 64
    assert exposed == pytest.approx({0.0: exchange, 0.5: exchange - backward, 1.0: exchange - backward})


@pytest.mark.parametrize(("workers", "contention"), [(1, 1.0), (2, 1.0), (4, 2.0), (6, 3.0)])
def test_workers_beyond_the_cores_share_them(workers, contention):
    run = one_run(workers, workers_per_machine=2, cores=2.0, max_machines=1)
    assert run.parts["compute"] == pytest.approx(contention * 8.0 / workers, rel=0.02)
    assert run.machines == 1


def test_micro_batches_that_are_too_small_wait_for_their_launch():
    run = one_run(64, micro_step_floor_s=0.5)
    assert run.parts["compute"] == pytest.approx(0.5)  # one micro-batch of 32 takes 0.125 s of arithmetic


def test_the_bound_is_the_part_that_takes_most():
    assert one_run(8, link_rate=1e7).bound == "all-reduce"
    assert one_run(8).bound == "compute"


def test_more_workers_get_the_stragglers_of_fewer_and_further_ones():
    few, many = (runs(PERFECT, workers=[4, count])[0] for count in (8, 64))
    assert few.parts["stragglers"] == pytest.approx(many.parts["stragglers"], rel=0.1)
    shares = [run.parts["stragglers"] / run.parts["compute"] for run in runs(PERFECT)]
    assert shares == sorted(shares)


WORK_S, INTERVAL_S = 36_000.0, 600.0


def times(rate, *, preemption_notice=False, restart_s=60.0, machines=1, trials=400, seed=3):
    return run_times(
        WORK_S,
        INTERVAL_S,
        machines=machines,
        slowdowns=disturbed(rate, restart_s=restart_s, preemption_notice=preemption_notice),
        trials=trials,
        rng=np.random.default_rng(seed),
    )


def test_preemptions_cost_restarts_and_without_a_notice_half_an_interval_of_steps():
    seconds, preemptions = times(0.0)
    assert (seconds == WORK_S).all()
    assert not preemptions.any()
    seconds, preemptions = times(0.5, preemption_notice=True)
    assert seconds == pytest.approx(WORK_S + 60.0 * preemptions)
    seconds, preemptions = times(0.5)
    repeated = seconds - WORK_S - 60.0 * preemptions
    assert repeated.sum() / preemptions.sum() == pytest.approx(INTERVAL_S / 2, rel=0.05)
    assert (repeated <= INTERVAL_S * preemptions + 1e-6).all()


def test_the_number_of_preemptions_follows_from_machines_and_hours():
    _, preemptions = times(0.2, preemption_notice=True, restart_s=0.0, machines=3)
    assert preemptions.mean() == pytest.approx(0.2 * 3 * WORK_S / 3600, rel=0.1)


@pytest.mark.parametrize(("rate", "preemption_notice"), [(1e6, True), (30.0, False)])
def test_a_run_that_would_not_end_is_refused(rate, preemption_notice):
    with pytest.raises(InputError, match=r"slowdowns\.preemptions_per_machine_hour"):
        times(rate, preemption_notice=preemption_notice)
