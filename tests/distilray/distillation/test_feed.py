import numpy as np
import pytest

from distilray.distillation.feed import Feed, loss_divisors
from distilray.pretraining_data.sample_plan import SamplePlan
from tests.tiny.shards import open_shards, step_counts

BATCH_SIZE, STEPS = 23, 3
SHAPES = [(1, 32), (1, 5), (2, 6), (3, 4), (4, 2)]  # workers and their micro_batch_size
every_shape = pytest.mark.parametrize(("workers", "micro_batch_size"), SHAPES)


@pytest.fixture(scope="module")
def shards(shards_dir):
    return open_shards(shards_dir)


@pytest.fixture
def plan(shards):
    return SamplePlan(shards.shard_rows, BATCH_SIZE, seed=3)


@pytest.fixture
def feed(shards, plan):
    """Create the feed of a worker."""

    def make(rank=0, workers=1, micro_batch_size=5, reduction="global"):
        return Feed(
            shards=shards,
            plan=plan,
            rank=rank,
            num_workers=workers,
            micro_batch_size=micro_batch_size,
            reduction=reduction,
            pad_id=0,
            pinned=False,
        )

    return make


@pytest.fixture
def dealt(feed):
    """Return the micro-steps of each worker over some steps."""

    def deal(workers, micro_batch_size, reduction="global", start=0, stop=STEPS):
        feeds = [feed(rank, workers, micro_batch_size, reduction) for rank in range(workers)]
        return [list(one.micro_steps(start, stop)) for one in feeds]

    return deal


def steps_of(micro_steps):
    """Group the micro-steps of a worker by optimizer step."""
    steps = [[]]
    for micro in micro_steps:
        steps[-1].append(micro)
        if micro.is_last:
            steps.append([])
    assert steps.pop() == []
    return steps


def rows(micro_steps):
    return np.concatenate([micro.rows for micro in micro_steps])


@every_shape
def test_every_worker_has_the_same_number_of_micro_steps(dealt, workers, micro_batch_size):
    numbers = [[micro.number for micro in one] for one in dealt(workers, micro_batch_size)]
    assert all(one == numbers[0] for one in numbers)


@every_shape
def test_a_worker_has_one_last_micro_step_for_each_step(dealt, workers, micro_batch_size):
    for one in dealt(workers, micro_batch_size):
        assert len(steps_of(one)) == STEPS


@every_shape
def test_the_workers_use_each_example_of_a_step_once(dealt, plan, workers, micro_batch_size):
    by_worker = [steps_of(one) for one in dealt(workers, micro_batch_size)]
    for step in range(STEPS):
        used = np.concatenate([rows(steps[step]) for steps in by_worker])
        assert sorted(used) == sorted(plan.step_rows(step).rows)


@every_shape
def test_no_micro_batch_is_larger_than_asked_for_or_empty(dealt, workers, micro_batch_size):
    sizes = [len(micro.batch.input_ids) for one in dealt(workers, micro_batch_size) for micro in one]
    assert 1 <= min(sizes) <= max(sizes) <= micro_batch_size


@every_shape
def test_a_step_is_as_large_as_its_micro_batches_together(dealt, workers, micro_batch_size):
    by_worker = [steps_of(one) for one in dealt(workers, micro_batch_size)]
    for step in range(STEPS):
        micro_steps = [micro for steps in by_worker for micro in steps[step]]
        size = micro_steps[0].size
        lengths = [micro.batch.attention_mask.sum(dim=1) for micro in micro_steps]
        assert size.tokens == sum(int(one.sum()) for one in lengths)
        assert size.pairs == sum(int((one**2).sum()) for one in lengths)
        assert size.masked == sum(len(micro.batch.mask_labels) for micro in micro_steps)
        assert size.padded_tokens == sum(micro.batch.input_ids.numel() for micro in micro_steps)


def test_the_micro_steps_from_some_step_on_are_those_of_the_whole_run(dealt):
    (whole,), (rest,) = dealt(1, 5), dealt(1, 5, start=2)
    tail = steps_of(whole)[2]
    assert [micro.rows.tolist() for micro in rest] == [micro.rows.tolist() for micro in tail]
    assert all((one.batch.input_ids == two.batch.input_ids).all() for one, two in zip(rest, tail, strict=True))


def shares(dealt, workers, micro_batch_size, reduction):
    """Return sums over the micro-batches of the first step, and the means of each, for two terms over ids."""
    micro_steps = [micro for one in dealt(workers, micro_batch_size, reduction, stop=1) for micro in one]
    sums = {"tokens": 0.0, "masked": 0.0}
    means = {"tokens": [], "masked": []}
    for micro in micro_steps:
        real = micro.batch.attention_mask.bool()
        for name, ids in (("tokens", micro.batch.input_ids[real]), ("masked", micro.batch.mask_labels)):
            values = ids.double()
            sums[name] += float(values.sum()) / getattr(micro.divisors, name)
            means[name].append(float(values.mean()) if len(values) else 0.0)  # nothing to predict
    return sums, means


@every_shape
def test_global_shares_add_up_to_the_mean_over_the_step(dealt, workers, micro_batch_size):
    sums, _ = shares(dealt, workers, micro_batch_size, "global")
    ((whole,),) = dealt(1, BATCH_SIZE, stop=1)
    batch = whole.batch
    assert sums["tokens"] == pytest.approx(float(batch.input_ids[batch.attention_mask.bool()].double().mean()))
    assert sums["masked"] == pytest.approx(float(batch.mask_labels.double().mean()))


@every_shape
def test_original_shares_add_up_to_the_mean_of_the_means_of_the_micro_batches(dealt, workers, micro_batch_size):
    sums, means = shares(dealt, workers, micro_batch_size, "original")
    for name, values in means.items():
        assert sums[name] == pytest.approx(np.mean(values))


@every_shape
def test_global_counts_are_those_of_the_whole_step(dealt, shards, plan, workers, micro_batch_size):
    counts = {micro.divisors for one in dealt(workers, micro_batch_size, stop=1) for micro in one}
    assert counts == {step_counts(shards, plan.step_rows(0).rows)}


def test_pairs_are_those_of_the_tokens_of_one_example():
    assert loss_divisors(np.array([2, 3]), np.array([1, 0])).pairs == 2 * 2 + 3 * 3
