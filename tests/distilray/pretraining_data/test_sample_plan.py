import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.sample_plan import SamplePlan, micro_batches

PLANS = st.builds(
    SamplePlan,
    rows=st.integers(1, 300),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 50),
    block_rows=st.integers(1, 40),
    window_blocks=st.integers(1, 6),
)


@settings(max_examples=150, deadline=None)
@given(plan=PLANS)
def test_each_epoch_uses_every_example_exactly_once(plan):
    for epoch in range(3):
        rows = plan.stream(epoch * plan.rows, (epoch + 1) * plan.rows)
        assert np.array_equal(np.sort(rows), np.arange(plan.rows))


@settings(max_examples=150, deadline=None)
@given(plan=PLANS, first=st.integers(0, 20))
def test_steps_cut_the_stream_without_gap_or_overlap(plan, first):
    steps = [plan.step_rows(step) for step in range(first, first + 3)]
    whole = plan.stream(first * plan.batch_size, (first + 3) * plan.batch_size)
    assert {len(rows) for rows in steps} == {plan.batch_size}
    assert np.array_equal(np.concatenate(steps), whole)


def test_epochs_and_seeds_have_orders_of_their_own():
    plan = SamplePlan(1000, 10, seed=1)
    first, second = plan.stream(0, 1000), plan.stream(1000, 2000)
    other = SamplePlan(1000, 10, seed=2).stream(0, 1000)
    assert np.mean(first == second) < 0.02
    assert np.mean(first == other) < 0.02


def test_neighbouring_rows_end_up_far_apart():
    rows = SamplePlan(20_000, 10, seed=1, block_rows=50, window_blocks=40).stream(0, 20_000)
    place = np.argsort(rows)
    assert np.median(np.abs(np.diff(place))) > 500


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 200),
    num_workers=st.integers(1, 9),
    micro_batch_size=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_the_workers_share_a_step_exactly_and_do_the_same_number_of_micro_steps(
    size, num_workers, micro_batch_size, seed
):
    rng = np.random.default_rng(seed)
    rows, lengths = rng.permutation(1000)[:size], rng.integers(5, 128, size)
    parts = [
        micro_batches(rows, lengths, num_workers=num_workers, rank=rank, micro_batch_size=micro_batch_size)
        for rank in range(num_workers)
    ]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part]
    assert max(len(batch) for batch in batches) <= micro_batch_size
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows.tolist())


def test_micro_batches_hold_rows_of_similar_length():
    lengths = np.random.default_rng(1).integers(8, 512, 1024)
    padded = sum(
        len(batch) * lengths[batch].max()
        for batch in micro_batches(np.arange(1024), lengths, num_workers=1, rank=0, micro_batch_size=32)
    )
    assert padded / lengths.sum() < 1.05


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_a_step_takes_the_same_examples_for_any_number_of_workers(num_workers):
    plan = SamplePlan(500, 48, seed=3)
    rows = plan.step_rows(7)
    taken = np.concatenate(
        [
            part
            for rank in range(num_workers)
            for part in micro_batches(rows, rows % 50, num_workers=num_workers, rank=rank, micro_batch_size=8)
        ]
    )
    assert set(taken.tolist()) == set(rows.tolist())
