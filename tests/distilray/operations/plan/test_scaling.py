import dataclasses
import math

import numpy as np
import pytest

from distilray.operations.plan.scaling import (
    PARTS,
    Placement,
    Preemption,
    Rhythm,
    StepWork,
    all_reduce_s,
    scaled_runs,
)

WORKERS = [1, 2, 3, 4, 7, 8, 16, 32, 64]
WORK = StepWork(
    examples=2048,
    tokens=1e6,
    micro_batch_size=32,
    compute_s=8.0,
    backward_share=0.4,
    gradient_bytes=268e6,
    update_bytes=1.9e9,
)
REAL = Placement(
    workers_per_machine=8,
    micro_step_floor_s=0.01,
    memory_rate=1.5e12,
    link_rate=200e9,
    network_rate=1e9,
    latency_s=2e-5,
    overlap=0.8,
    input_rate=1e7,
)
PERFECT = dataclasses.replace(
    REAL,
    micro_step_floor_s=0.0,
    memory_rate=math.inf,
    link_rate=math.inf,
    network_rate=math.inf,
    latency_s=0.0,
    input_rate=math.inf,
)
BUSY = Rhythm(checkpoint_every_steps=10, checkpoint_s=0.2, scores_s=3.0, score_passes=4)
QUIET = Rhythm(checkpoint_every_steps=10, checkpoint_s=0.0, scores_s=0.0, score_passes=0)
NEVER = Preemption(per_machine_hour=0.0, restart_s=100.0, has_notice=False)
SOMETIMES = Preemption(per_machine_hour=0.3, restart_s=100.0, has_notice=False)


def runs(place=REAL, rhythm=BUSY, *, work=WORK, workers=WORKERS, stragglers=0.02, preemption=NEVER, seed=1, steps=3000):
    return scaled_runs(
        work,
        place,
        rhythm,
        steps=steps,
        workers=workers,
        straggler_mean=stragglers,
        preemption=preemption,
        simulated_steps=500,
        trials=20,
        seed=seed,
    )


@pytest.mark.parametrize("place", [REAL, PERFECT, dataclasses.replace(REAL, cores=2.0, most_machines=1)])
@pytest.mark.parametrize("preemption", [NEVER, SOMETIMES])
def test_workers_never_do_more_than_as_many_times_one_undisturbed(place, preemption):
    for run in runs(place, preemption=preemption):
        assert run.tokens_per_s <= run.workers * WORK.tokens / WORK.compute_s * (1 + 1e-12)
        assert 0 < run.efficiency <= 1 + 1e-12


def test_without_anything_to_wait_for_the_efficiency_is_1():
    assert [run.efficiency for run in runs(PERFECT, QUIET, stragglers=0.0)] == pytest.approx([1.0] * len(WORKERS))


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
def test_each_limit_alone_costs_efficiency(change):
    (run,) = runs(dataclasses.replace(PERFECT, **change), QUIET, stragglers=0.0, workers=[8])
    assert run.efficiency < 0.99


def test_a_run_is_its_steps_in_hours_and_a_step_its_parts():
    for run in runs():
        assert set(run.parts) == set(PARTS)
        assert run.hours == pytest.approx(3000 * sum(run.parts.values()) / 3600)
        assert run.tokens_per_s == pytest.approx(WORK.tokens / run.step_s)


def test_the_same_seed_gives_the_same_runs_and_another_one_others():
    assert runs(preemption=SOMETIMES) == runs(preemption=SOMETIMES)
    assert runs(preemption=SOMETIMES) != runs(preemption=SOMETIMES, seed=2)


def test_the_last_of_n_stragglers_is_late_by_the_harmonic_number():
    # The mean of the largest of n exponential delays is their mean times 1 + 1/2 + ... + 1/n.
    (run,) = runs(PERFECT, QUIET, stragglers=0.1, workers=[16])
    expected = 0.1 * sum(1 / number for number in range(1, 17))
    assert run.parts["stragglers"] / run.parts["compute"] == pytest.approx(expected, rel=0.05)


def test_a_ring_moves_twice_the_bytes_less_one_share():
    place = dataclasses.replace(REAL, latency_s=0.0)
    assert all_reduce_s(1e9, 8, place) == pytest.approx(2 * 7 / 8 * 1e9 / 200e9)
    assert all_reduce_s(1e9, 1, place) == 0.0


def test_beyond_a_machine_the_network_is_the_slowest_hop():
    place = dataclasses.replace(REAL, latency_s=0.0)
    assert all_reduce_s(1e9, 16, place) == pytest.approx(2 * 15 / 16 * 1e9 / 1e9)
    alone = dataclasses.replace(place, workers_per_machine=1, link_rate=1.0)  # no link is used
    assert all_reduce_s(1e9, 2, alone) == pytest.approx(1e9 / 1e9)


def test_an_exchange_hides_behind_the_backward_pass_of_the_last_micro_batch_only():
    exposed = {}
    for overlap in (0.0, 0.5, 1.0):
        place = dataclasses.replace(PERFECT, link_rate=2e9, overlap=overlap)
        (run,) = runs(place, QUIET, stragglers=0.0, workers=[8])
        exposed[overlap] = run.parts["all-reduce"]
    exchange, backward = 2 * 7 / 8 * 268e6 / 2e9, 0.4 * 8.0 / 64
    assert exposed == pytest.approx({0.0: exchange, 0.5: exchange - backward, 1.0: exchange - backward})


@pytest.mark.parametrize(("workers", "crowding"), [(1, 1.0), (2, 1.0), (4, 2.0), (6, 3.0)])
def test_workers_beyond_the_cores_share_them(workers, crowding):
    place = dataclasses.replace(PERFECT, workers_per_machine=2, cores=2.0, most_machines=1)
    (run,) = runs(place, QUIET, stragglers=0.0, workers=[workers])
    assert run.parts["compute"] == pytest.approx(crowding * 8.0 / workers, rel=0.02)
    assert run.machines == 1


def test_micro_batches_that_are_too_small_wait_for_their_launch():
    place = dataclasses.replace(PERFECT, micro_step_floor_s=0.5)
    (run,) = runs(place, QUIET, stragglers=0.0, workers=[64])
    assert run.parts["compute"] == pytest.approx(0.5)  # one micro-batch of 32 takes 0.125 s of arithmetic


def test_the_bound_is_the_part_that_takes_most():
    slow = dataclasses.replace(PERFECT, link_rate=1e7)
    assert runs(slow, QUIET, workers=[8])[0].bound == "all-reduce"
    assert runs(PERFECT, QUIET, workers=[8])[0].bound == "compute"


def test_more_workers_get_the_stragglers_of_fewer_and_further_ones():
    few, many = (runs(PERFECT, QUIET, workers=[4, count])[0] for count in (8, 64))
    assert few.parts["stragglers"] == pytest.approx(many.parts["stragglers"], rel=0.1)
    found = [run.parts["stragglers"] / run.parts["compute"] for run in runs(PERFECT, QUIET)]
    assert found == sorted(found)


def test_the_delays_of_a_plan_are_drawn_by_its_seed_alone():
    first, second = (np.array([run.step_s for run in runs(workers=[1, 8])]) for _ in range(2))
    assert (first == second).all()
