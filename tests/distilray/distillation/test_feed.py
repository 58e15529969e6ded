import numpy as np
import pytest

from distilray.distillation.feed import Feed, loss_divisors
from distilray.pretraining_data.sample_plan import SamplePlan
from tests.tiny.shards import step_counts

BATCH_SIZE, STEPS = 23, 3
# Workers, rows and, in the last case, tokens of a micro-batch.
every_shape = pytest.mark.parametrize("limits", [(1, 32), (1, 5), (2, 6), (3, 4), (4, 2), (2, 23, 128)], ids=str)


@pytest.fixture
def plan(shards):
    return SamplePlan(shards.shard_rows, BATCH_SIZE, seed=3)


@pytest.fixture
def steps_of(shards, plan):
    """Return the micro-steps of each worker, grouped by optimizer step."""

    def steps(workers, micro_batch_size, tokens=None, *, reduction="global", start=0, stop=STEPS):
        settings = {"num_workers": workers, "micro_batch_size": micro_batch_size, "micro_batch_tokens": tokens}
        settings["reduction"] = reduction
        feeds = [
            Feed(shards=shards, plan=plan, rank=rank, pad_id=0, pinned=False, **settings) for rank in range(workers)
        ]
        return [group_by_step(feed.micro_steps(start, stop)) for feed in feeds]

    return steps


def group_by_step(micro_steps):
    steps = [[]]
    for micro_step in micro_steps:
        steps[-1].append(micro_step)
        if micro_step.is_last:
            steps.append([])
    assert steps.pop() == []
    return steps


@every_shape
def test_workers_share_the_examples_of_each_step_in_equally_many_micro_batches(steps_of, plan, limits):
    by_worker = steps_of(*limits)
    workers, micro_batch_size, *token_limit = limits
    assert [len(steps) for steps in by_worker] == [STEPS] * workers
    for step in range(STEPS):
        numbers = [[micro.number for micro in steps[step]] for steps in by_worker]
        assert numbers == [list(range(len(numbers[0])))] * workers
        batches = [micro.rows for steps in by_worker for micro in steps[step]]
        assert 1 <= min(map(len, batches)) <= max(map(len, batches)) <= micro_batch_size
        assert sorted(np.concatenate(batches)) == sorted(plan.step_rows(step).rows)
        for limit in token_limit:
            assert max(micro.batch.input_ids.numel() for steps in by_worker for micro in steps[step]) <= limit


@every_shape
def test_the_size_of_a_step_is_the_sum_over_its_micro_batches(steps_of, limits):
    by_worker = steps_of(*limits)
    for step in range(STEPS):
        micro_steps = [micro for steps in by_worker for micro in steps[step]]
        size = micro_steps[0].size
        lengths = [micro.batch.attention_mask.sum(dim=1) for micro in micro_steps]
        assert size.tokens == sum(int(each.sum()) for each in lengths)
        assert size.pairs == sum(int((each**2).sum()) for each in lengths)
        assert size.masked == sum(len(micro.batch.mask_labels) for micro in micro_steps)
        assert size.padded_tokens == sum(micro.batch.input_ids.numel() for micro in micro_steps)


def test_a_resumed_run_has_the_same_micro_steps(steps_of):
    ((*_, expected),), ((rest,),) = steps_of(1, 5), steps_of(1, 5, start=2)
    assert [micro.rows.tolist() for micro in rest] == [micro.rows.tolist() for micro in expected]
    assert all((one.batch.input_ids == two.batch.input_ids).all() for one, two in zip(rest, expected, strict=True))


def values_of(micro_step):
    """Return a value for each real and for each masked token of a micro-batch: its id."""
    batch = micro_step.batch
    ids = {"tokens": batch.input_ids[batch.attention_mask.bool()], "masked": batch.mask_labels}
    return {name: values.double().numpy() for name, values in ids.items()}


@every_shape
@pytest.mark.parametrize("reduction", ["global", "original"])
def test_quotients_add_up_to_the_mean_of_the_step_or_of_the_micro_batches(steps_of, limits, reduction):
    micro_steps = [micro for (step,) in steps_of(*limits, reduction=reduction, stop=1) for micro in step]
    for name in ("tokens", "masked"):
        values = [values_of(micro)[name] for micro in micro_steps]
        means = [each.mean() if len(each) else 0.0 for each in values]  # 0 without anything to predict
        expected = np.concatenate(values).mean() if reduction == "global" else np.mean(means)
        quotients = (
            each.sum() / getattr(micro.divisors, name) for each, micro in zip(values, micro_steps, strict=True)
        )
        assert sum(quotients) == pytest.approx(expected)


@every_shape
def test_global_divisors_are_the_counts_of_the_whole_step(steps_of, shards, plan, limits):
    divisors = {micro.divisors for (step,) in steps_of(*limits, stop=1) for micro in step}
    assert divisors == {step_counts(shards, plan.step_rows(0).rows)}


def test_pairs_of_tokens_are_within_one_example():
    assert loss_divisors(np.array([2, 3]), np.array([1, 0])).pairs == 2 * 2 + 3 * 3
