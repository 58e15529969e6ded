import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.sample_plan import PlanState, SamplePlan, micro_batches

shard_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=12).map(tuple)
PLANS = st.builds(
    SamplePlan,
    shard_rows=shard_sizes,
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 50),
    window_rows=st.integers(1, 200),
)


def rows_of(plan, start, stop):
    return plan.stream(start, stop).rows


@settings(max_examples=200, deadline=None)
@given(plan=PLANS)
def test_each_epoch_uses_every_example_exactly_once(plan):
    for epoch in range(3):
        found = plan.stream(epoch * plan.total_rows, (epoch + 1) * plan.total_rows)
        assert np.array_equal(np.sort(found.rows), np.arange(sum(plan.shard_rows)))
        assert set(found.epochs) == {epoch}


@settings(max_examples=200, deadline=None)
@given(plan=PLANS, first=st.integers(0, 20))
def test_steps_cut_the_stream_without_gap_or_overlap(plan, first):
    steps = [plan.step_rows(step) for step in range(first, first + 3)]
    whole = plan.stream(first * plan.batch_size, (first + 3) * plan.batch_size)
    assert {len(step.rows) for step in steps} == {plan.batch_size}
    assert np.array_equal(np.concatenate([step.rows for step in steps]), whole.rows)
    assert np.array_equal(np.concatenate([step.epochs for step in steps]), whole.epochs)


@settings(max_examples=200, deadline=None)
@given(
    plan=PLANS,
    workers=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    micro_batch_size=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_an_epoch_is_used_exactly_once_if_the_number_of_workers_changes(plan, workers, micro_batch_size, seed):
    """The run resumes with another number of workers every few steps."""
    lengths = np.random.default_rng(seed).integers(5, 128, plan.total_rows)
    steps = -(-plan.total_rows // plan.batch_size)
    taken = []
    for step in range(steps):
        num_workers = workers[step * len(workers) // steps]
        planned = plan.step_rows(step)
        parts = micro_batches(lengths[planned.rows], num_workers=num_workers, micro_batch_size=micro_batch_size)
        of_rank = [parts[rank::num_workers] for rank in range(num_workers)]
        assert len({len(own) for own in of_rank}) == 1
        assert max(map(len, parts)) <= micro_batch_size
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        used = [planned.take(places) for own in of_rank for places in own]
        assert sorted(np.concatenate([part.rows for part in used])) == sorted(planned.rows)
        taken += [row for part in used for row in part.rows[part.epochs == 0]]
    assert sorted(taken) == list(range(plan.total_rows))


@settings(max_examples=200, deadline=None)
@given(plan=PLANS, step=st.integers(0, 200))
def test_the_state_is_the_position_of_the_next_step(plan, step):
    state = plan.state(step)
    assert 0 <= state.consumed < plan.total_rows
    start = state.epoch * plan.total_rows + state.consumed
    assert np.array_equal(rows_of(plan, start, start + plan.batch_size), plan.step_rows(step).rows)


def test_the_state_counts_whole_epochs_and_examples_of_the_next():
    plan = SamplePlan((30, 30, 40), batch_size=30, seed=1)
    assert [plan.state(step) for step in (0, 3, 4, 10)] == [
        PlanState(0, 0),
        PlanState(0, 90),
        PlanState(1, 20),
        PlanState(3, 0),
    ]


def test_every_epoch_and_seed_has_a_different_order():
    plan = SamplePlan((100,) * 10, 10, seed=1)
    first, second = rows_of(plan, 0, 1000), rows_of(plan, 1000, 2000)
    other = rows_of(SamplePlan((100,) * 10, 10, seed=2), 0, 1000)
    assert np.mean(first == second) < 0.02
    assert np.mean(first == other) < 0.02


@settings(max_examples=200, deadline=None)
@given(plan=PLANS, step=st.integers(0, 50))
def test_the_shards_that_come_next_are_among_those_ahead(plan, step):
    last = (step + 1) * plan.batch_size - 1
    rows = rows_of(plan, last, last + min(plan.shard_rows))
    shards = np.searchsorted(np.cumsum([0, *plan.shard_rows]), rows, side="right") - 1
    assert set(shards.tolist()) <= set(plan.shards_ahead(step))


def test_windows_bound_what_is_needed_at_once():
    plan = SamplePlan((50,) * 100, 10, seed=3, window_rows=500)
    for step in range(0, 500, 7):
        assert 10 <= len(plan.shards_ahead(step)) <= 20


def test_neighboring_rows_end_up_far_apart():
    rows = rows_of(SamplePlan((50,) * 400, 10, seed=1, window_rows=2000), 0, 20_000)
    distance = np.abs(np.diff(np.argsort(rows)))
    assert np.median(distance) > 500
    assert np.mean(distance < 10) < 0.02


def test_the_first_rows_of_an_epoch_come_from_all_of_the_data():
    rows = rows_of(SamplePlan((50,) * 400, 10, seed=1, window_rows=2000), 0, 2000)
    counts = np.histogram(rows, bins=4, range=(0, 20_000))[0]
    assert (counts > 200).all()


def test_micro_batches_hold_rows_of_similar_length():
    lengths = np.random.default_rng(1).integers(8, 512, 1024)
    parts = micro_batches(lengths, num_workers=1, micro_batch_size=32)
    assert sum(len(places) * lengths[places].max() for places in parts) / lengths.sum() < 1.05


@pytest.mark.parametrize("num_workers", [2, 4, 8])
def test_workers_get_rows_of_the_same_length_at_the_same_time(num_workers):
    lengths = np.random.default_rng(1).integers(8, 512, 2000)
    parts = micro_batches(lengths, num_workers=num_workers, micro_batch_size=16)
    for at in range(0, len(parts), num_workers):
        longest = [lengths[places].max() for places in parts[at : at + num_workers]]
        assert max(longest) - min(longest) < 504 / len(parts) * num_workers * 2


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 512), min_size=1, max_size=200),
    num_workers=st.integers(1, 9),
    micro_batch_size=st.integers(1, 40),
)
def test_micro_batches_share_a_step_exactly(lengths, num_workers, micro_batch_size):
    parts = micro_batches(np.array(lengths), num_workers=num_workers, micro_batch_size=micro_batch_size)
    assert len(parts) % num_workers == 0
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
