import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.batches import collate, heldout_batches, prefetch
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shards import ShardSet
from tests.tiny.models import MAX_SEQ_LENGTH
from tests.tiny.shards import planned, write_shards

PAD = 0


@pytest.fixture(scope="module")
def shards(shards_dir):
    return ShardSet(shards_dir, "train")


@pytest.fixture(scope="module")
def examples(shards_dir):
    files = sorted((Path(shards_dir) / "shards").glob("train-*"))
    return [row for file in files for row in pa.ipc.open_file(str(file)).read_all().to_pylist()]


def plain_batch(examples, *, pad_id, width):
    """Plain Python implementation of `collate`."""
    found = {"input_ids": [], "attention_mask": [], "token_type_ids": [], "mask_index": [], "mask_labels": []}
    for number, example in enumerate(examples):
        ids, second = example["input_ids"], example["segment_b_start"]
        places = range(width)
        found["input_ids"].append([ids[place] if place < len(ids) else pad_id for place in places])
        found["attention_mask"].append([1 if place < len(ids) else 0 for place in places])
        found["token_type_ids"].append([1 if second <= place < len(ids) else 0 for place in places])
        found["mask_index"] += [number * width + place for place in example["mask_positions"]]
        found["mask_labels"] += example["mask_labels"]
    return found


@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_batches_match_a_plain_python_implementation(shards, examples, multiple):
    rng = np.random.default_rng(multiple)
    for size in (1, 2, 7, 30):
        rows = rng.choice(len(shards), size=size, replace=False)
        batch = collate(shards, planned(rows), pad_id=17, multiple=multiple)
        width = batch.input_ids.shape[1]
        longest = max(len(examples[row]["input_ids"]) for row in rows)
        assert longest <= width < longest + multiple
        expected = plain_batch([examples[row] for row in rows], pad_id=17, width=width)
        for name, values in expected.items():
            found = getattr(batch, name)
            assert found.dtype == np.int64
            assert found.tolist() == values, name
        assert batch.tokens == sum(len(examples[row]["input_ids"]) for row in rows)


def test_segment_a_ends_with_its_sep_and_b_is_type_one(shards):
    batch = collate(shards, planned(np.arange(20)), pad_id=PAD)
    for ids, types, attention in zip(batch.input_ids, batch.token_type_ids, batch.attention_mask, strict=True):
        length = int(attention.sum())
        first = int(np.flatnonzero(types)[0])
        assert ids[0] == 2  # [CLS]
        assert ids[first - 1] == ids[length - 1] == 3  # [SEP]
        assert set(types[:first]) == {0}
        assert set(types[first:length]) == {1}
        assert set(types[length:]) <= {0}


def test_the_width_is_a_multiple_but_never_above_the_longest_allowed(shards):
    lengths = shards.lengths(np.arange(len(shards)))
    short = np.array([int(np.argmin(lengths))])
    assert collate(shards, planned(short), pad_id=PAD, multiple=8).input_ids.shape[1] % 8 == 0
    everything = collate(shards, planned(np.arange(len(shards))), pad_id=PAD, multiple=24)
    assert everything.input_ids.shape[1] == MAX_SEQ_LENGTH == lengths.max()


def test_restoring_the_labels_removes_all_mask_tokens(shards):
    batch = collate(shards, planned(np.arange(len(shards))), pad_id=PAD)
    seen = batch.input_ids.ravel().copy()
    assert (seen == 4).any()
    seen[batch.mask_index] = batch.mask_labels
    assert not (seen == 4).any()


def rows_in(batches):
    return [
        tuple(ids[attention == 1])
        for batch in batches
        for ids, attention in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


@pytest.mark.parametrize("limit", [None, 9])
@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_heldout_batches_hold_every_row_once_for_any_number_of_workers(shards_dir, batch_size, num_workers, limit):
    shards = ShardSet(shards_dir, "heldout")
    of_rank = [
        list(
            heldout_batches(shards, batch_size=batch_size, pad_id=PAD, limit=limit, rank=rank, num_workers=num_workers)
        )
        for rank in range(num_workers)
    ]
    batches = [batch for found in of_rank for batch in found]
    assert max(len(batch.input_ids) for batch in batches) <= batch_size
    rows = np.arange(len(shards))[:limit]
    expected = [tuple(shard.input_ids.row(row)) for shard, row in shards.locate(rows)]
    assert sorted(rows_in(batches)) == sorted(expected)
    for found in of_rank:
        lengths = [len(row) for row in rows_in(found)]
        assert lengths == sorted(lengths, reverse=True)
    masks = shards.mask_counts(rows, np.zeros_like(rows)).sum()
    assert sum(len(batch.mask_labels) for batch in batches) == masks


def test_dynamic_masks_differ_between_epochs_of_the_same_text(tmp_path, tokenizer_dir):
    shards = ShardSet(write_shards(tmp_path / "run", tokenizer_dir, masking={"dynamic": True}), "train")
    rows = np.arange(30)
    first, again, second = (collate(shards, PlannedRows(rows, np.full(30, epoch)), pad_id=PAD) for epoch in (0, 0, 1))
    assert first.input_ids.tolist() == again.input_ids.tolist()
    assert set(first.mask_index.tolist()) != set(second.mask_index.tolist())
    for batch in (first, second):
        batch.input_ids.ravel()[batch.mask_index] = batch.mask_labels
    assert first.input_ids.tolist() == second.input_ids.tolist()
    assert len(first.mask_index) == shards.mask_counts(rows, np.zeros_like(rows)).sum()


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetching_keeps_the_order_and_ends_its_thread(depth):
    assert list(prefetch(lambda: iter(range(50)), depth)) == list(range(50))
    assert prefetch_threads() == []


def test_what_the_producer_raises_is_raised_after_the_items_before_it():
    def make():
        yield 1
        yield 2
        raise LookupError("row 3")

    items, found = prefetch(make), []
    with pytest.raises(LookupError, match="row 3"):
        found.extend(iter(lambda: next(items), None))
    assert found == [1, 2]
    assert prefetch_threads() == []


def test_a_consumer_that_stops_early_ends_the_thread():
    made = []

    def make():
        for number in range(10_000):
            made.append(number)
            yield number

    items = prefetch(make, depth=2)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert prefetch_threads() == []
    assert len(made) <= 2 + 2 + 1  # taken, waiting in the queue, waiting to be put there


def test_no_more_than_depth_items_are_made_ahead():
    made = []
    reached = threading.Event()

    def make():
        for number in range(100):
            made.append(number)
            if number == 4:
                reached.set()
            yield number

    items = prefetch(make, depth=3)
    next(items)
    assert reached.wait(10)
    items.close()
    assert len(made) == 5
