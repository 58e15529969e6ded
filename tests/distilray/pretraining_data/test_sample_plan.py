import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.sample_plan import PlanState, SamplePlan, micro_batches

PLANS = st.builds(
    SamplePlan,
    shard_rows=st.lists(st.integers(1, 60), min_size=1, max_size=12).map(tuple),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 50),
    window_rows=st.integers(1, 200),
)
few_examples = settings(max_examples=60)


def rows_of(plan, start, stop):
    return plan.stream(start, stop).rows


@few_examples
@given(plan=PLANS)
def test_each_epoch_uses_every_example_exactly_once(plan):
    for epoch in range(3):
        planned = plan.stream(epoch * plan.total_rows, (epoch + 1) * plan.total_rows)
        assert np.array_equal(np.sort(planned.rows), np.arange(sum(plan.shard_rows)))
        assert set(planned.epochs) == {epoch}


@few_examples
@given(plan=PLANS, first=st.integers(0, 200))
def test_steps_cut_the_stream_without_gap_or_overlap(plan, first):
    steps = [plan.step_rows(step) for step in range(first, first + 3)]
    state = plan.state(first)
    assert 0 <= state.consumed < plan.total_rows
    start = state.epoch * plan.total_rows + state.consumed
    whole = plan.stream(start, start + 3 * plan.batch_size)
    assert {len(step.rows) for step in steps} == {plan.batch_size}
    assert np.array_equal(np.concatenate([step.rows for step in steps]), whole.rows)
    assert np.array_equal(np.concatenate([step.epochs for step in steps]), whole.epochs)


@few_examples
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
    used = []
    for step in range(steps):
        num_workers = workers[step * len(workers) // steps]
        planned = plan.step_rows(step)
        parts = micro_batches(lengths[planned.rows], num_workers=num_workers, micro_batch_size=micro_batch_size)
        assert len(parts) % num_workers == 0
        assert max(map(len, parts)) <= micro_batch_size
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        taken = [planned.take(indices) for rank in range(num_workers) for indices in parts[rank::num_workers]]
        assert sorted(np.concatenate([part.rows for part in taken])) == sorted(planned.rows)
        used += [row for part in taken for row in part.rows[part.epochs == 0]]
    assert sorted(used) == list(range(plan.total_rows))


def test_the_state_counts_whole_epochs_and_examples_of_the_next():
    plan = SamplePlan((30, 30, 40), batch_size=30, seed=1)
    states = [PlanState(0, 0), PlanState(0, 90), PlanState(1, 20), PlanState(3, 0)]
    assert [plan.state(step) for step in (0, 3, 4, 10)] == states


def test_every_epoch_and_seed_has_a_different_order():
    plan, other = (SamplePlan((100,) * 10, 10, seed=seed) for seed in (1, 2))
    first = rows_of(plan, 0, 1000)
    for rows in (rows_of(plan, 1000, 2000), rows_of(other, 0, 1000)):
        assert np.mean(first == rows) < 0.02


@few_examples
@given(plan=PLANS, step=st.integers(0, 50))
def test_the_next_shards_are_among_those_ahead(plan, step):
    last = (step + 1) * plan.batch_size - 1
    rows = rows_of(plan, last, last + min(plan.shard_rows))
    shards = np.searchsorted(np.cumsum([0, *plan.shard_rows]), rows, side="right") - 1
    assert set(shards.tolist()) <= set(plan.shards_ahead(step))


def test_windows_limit_the_number_of_shards_ahead():
    plan = SamplePlan((50,) * 100, 10, seed=3, window_rows=500)
    assert all(10 <= len(plan.shards_ahead(step)) <= 20 for step in range(0, 500, 7))


def test_rows_are_mixed_within_a_window_and_windows_within_an_epoch():
    rows = rows_of(SamplePlan((50,) * 400, 10, seed=1, window_rows=2000), 0, 20_000)
    distance = np.abs(np.diff(np.argsort(rows)))  # in the stream, of rows that are neighbors in the shards
    assert np.median(distance) > 500
    assert np.mean(distance < 10) < 0.02
    assert (np.histogram(rows[:2000], bins=4, range=(0, 20_000))[0] > 200).all()


def padded_tokens(widths, parts):
    return [len(indices) * widths[indices].max() for indices in parts]


@few_examples
@given(
    widths=st.lists(st.integers(1, 64), min_size=9, max_size=80).map(np.array),
    workers=st.integers(1, 4),
    micro_batch_size=st.integers(3, 40),
    tokens=st.integers(192, 600),
)
def test_a_token_budget_limits_micro_batches_and_all_workers_get_equally_many(
    widths, workers, micro_batch_size, tokens
):
    """The budget has room for three of the widest rows, and there are at least two rows for each worker."""
    limits = {"num_workers": workers, "micro_batch_size": micro_batch_size}
    parts = micro_batches(widths, micro_batch_tokens=tokens, **limits)
    assert sorted(np.concatenate(parts)) == list(range(len(widths)))
    assert len(parts) % workers == 0
    assert 1 <= min(map(len, parts)) <= max(map(len, parts)) <= micro_batch_size
    assert max(padded_tokens(widths, parts)) <= tokens
    # Never more micro-batches than with as many rows as fit at the largest width.
    rows = min(micro_batch_size, tokens // widths.max())
    assert len(parts) <= len(micro_batches(widths, num_workers=workers, micro_batch_size=int(rows)))


def test_short_rows_form_larger_micro_batches_within_a_token_budget():
    widths = np.array([512] * 40 + [128] * 160)
    parts = micro_batches(widths, num_workers=2, micro_batch_size=100, micro_batch_tokens=4096)
    # 40 rows of 512 tokens take 6 micro-batches of 8, filled up with 8 short rows; the other 152 need 6 more.
    assert [len(indices) for indices in parts[::2]] == [8, 8, 8, 26, 26, 25]
    assert padded_tokens(widths, parts[::2]) == [4096, 4096, 4096, 3328, 3328, 3200]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_widest_rows_come_first_for_every_worker(num_workers):
    widths = np.random.default_rng(1).integers(8, 512, 100)
    parts = micro_batches(widths, num_workers=num_workers, micro_batch_size=7)
    for rank in range(num_workers):
        longest = [widths[indices].max() for indices in parts[rank::num_workers]]
        assert longest == sorted(longest, reverse=True)
    assert widths[parts[0]].max() == widths.max()


@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_micro_batches_have_little_padding_and_all_workers_get_similar_lengths(num_workers):
    lengths = np.random.default_rng(1).integers(8, 512, 2000)
    parts = micro_batches(lengths, num_workers=num_workers, micro_batch_size=16)
    assert sum(len(indices) * lengths[indices].max() for indices in parts) / lengths.sum() < 1.05
    for start in range(0, len(parts), num_workers):
        longest = [lengths[indices].max() for indices in parts[start : start + num_workers]]
        assert max(longest) - min(longest) < 504 / len(parts) * num_workers * 2
