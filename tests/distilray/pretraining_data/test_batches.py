import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.batches import collate, heldout_rows, prefetch
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
    batch = {"input_ids": [], "attention_mask": [], "token_type_ids": [], "mask_index": [], "mask_labels": []}
    for number, example in enumerate(examples):
        ids, b_start = example["input_ids"], example["segment_b_start"]
        padding = width - len(ids)
        batch["input_ids"].append(ids + [pad_id] * padding)
        batch["attention_mask"].append([1] * len(ids) + [0] * padding)
        batch["token_type_ids"].append([0] * b_start + [1] * (len(ids) - b_start) + [0] * padding)
        batch["mask_index"] += [number * width + position for position in example["mask_positions"]]
        batch["mask_labels"] += example["mask_labels"]
    return batch


@pytest.mark.parametrize("multiple", [1, 8, 24])
@pytest.mark.parametrize("size", [1, 2, 30, None], ids=str)
def test_batches_match_a_plain_python_implementation(shards, examples, multiple, size):
    rows = np.random.default_rng(multiple).permutation(len(shards))[:size]
    batch = collate(shards, planned(rows), pad_id=17, multiple=multiple)
    longest = max(len(examples[row]["input_ids"]) for row in rows)
    width = min(-(-longest // multiple) * multiple, MAX_SEQ_LENGTH)  # never above the longest example that is allowed
    for name, values in plain_batch([examples[row] for row in rows], pad_id=17, width=width).items():
        assert getattr(batch, name).dtype == np.int64
        assert getattr(batch, name).tolist() == values, name
    assert batch.tokens == sum(len(examples[row]["input_ids"]) for row in rows)


def test_labels_restore_the_text_below_all_mask_tokens(shards):
    batch = collate(shards, planned(np.arange(len(shards))), pad_id=PAD)
    mask = 4
    assert (batch.input_ids == mask).any()
    batch.input_ids.ravel()[batch.mask_index] = batch.mask_labels
    assert not (batch.input_ids == mask).any()
    fully_masked = batch.fully_masked(mask)
    assert (fully_masked.input_ids.ravel()[batch.mask_index] == mask).all()
    assert (fully_masked.input_ids == mask).sum() == len(batch.mask_index)


def rows_in(batches):
    return [
        tuple(ids[attention == 1])
        for batch in batches
        for ids, attention in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


@pytest.mark.parametrize("limit", [None, 9])
@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_heldout_batches_contain_every_row_once_for_any_number_of_workers(shards_dir, batch_size, num_workers, limit):
    shards = ShardSet(shards_dir, "heldout")
    settings = {"batch_size": batch_size, "limit": limit, "num_workers": num_workers}
    by_worker = [
        [collate(shards, planned, pad_id=PAD) for planned in heldout_rows(shards, rank=rank, **settings)]
        for rank in range(num_workers)
    ]
    batches = [batch for worker in by_worker for batch in worker]
    assert max(len(batch.input_ids) for batch in batches) <= batch_size
    rows = np.arange(len(shards))[:limit]
    expected = [tuple(shard.input_ids.row(row)) for shard, row in shards.locate(rows)]
    assert sorted(rows_in(batches)) == sorted(expected)
    for worker in by_worker:
        lengths = [len(row) for row in rows_in(worker)]
        assert lengths == sorted(lengths, reverse=True)
    masks = shards.mask_counts(rows, np.zeros_like(rows)).sum()
    assert sum(len(batch.mask_labels) for batch in batches) == masks


@pytest.fixture(scope="module")
def masked_twice(tmp_path_factory, tokenizer_dir):
    """The same corpus with dynamic and with static masks, and with an unusual configuration of masking."""
    shares = {"mask_share": 0.5, "random_share": 0.4, "keep_share": 0.1}
    masking = {"rare_token_exponent": 0.7, "mlm_probability": 0.3, **shares}
    folder = tmp_path_factory.mktemp("masks")
    return [
        write_shards(folder / str(dynamic), tokenizer_dir, masking={**masking, "dynamic": dynamic})
        for dynamic in (True, False)
    ]


def test_dynamic_masks_differ_between_epochs_of_the_same_text(masked_twice):
    shards = ShardSet(masked_twice[0], "train")
    rows = np.arange(30)
    first, again, second = (collate(shards, PlannedRows(rows, np.full(30, epoch)), pad_id=PAD) for epoch in (0, 0, 1))
    assert first.input_ids.tolist() == again.input_ids.tolist()
    assert set(first.mask_index.tolist()) != set(second.mask_index.tolist())
    for batch in (first, second):
        batch.input_ids.ravel()[batch.mask_index] = batch.mask_labels
    assert first.input_ids.tolist() == second.input_ids.tolist()


def test_dynamic_masks_of_the_first_epoch_are_the_static_ones(masked_twice):
    dynamic, static = (ShardSet(folder, "train") for folder in masked_twice)
    assert static.masker is None
    rows = planned(np.arange(len(static)))
    drawn, stored = (collate(shards, rows, pad_id=PAD) for shards in (dynamic, static))
    for name, values in vars(stored).items():
        assert getattr(drawn, name).tolist() == values.tolist(), name
    for epoch in (0, 1):
        planned_rows = replace(rows, epochs=np.full(len(static), epoch))
        counts = dynamic.mask_counts(planned_rows.rows, planned_rows.epochs)
        assert counts.sum() == len(collate(dynamic, planned_rows, pad_id=PAD).mask_index)
    assert static.mask_counts(rows.rows, rows.epochs).tolist() == dynamic.mask_counts(rows.rows, rows.epochs).tolist()


def test_heldout_masks_are_static(masked_twice):
    shards = ShardSet(masked_twice[0], "heldout")
    assert shards.masker is None
    assert shards.mask_counts(np.arange(len(shards)), np.zeros(len(shards), np.int64)).sum() > 20


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetching_preserves_the_order_and_ends_its_thread(depth):
    assert list(prefetch(lambda: iter(range(50)), depth)) == list(range(50))
    assert prefetch_threads() == []


def test_an_error_of_the_producer_is_raised_after_the_items_before_it():
    def produce():
        yield from (1, 2)
        raise LookupError("row 3")

    items = prefetch(produce)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(LookupError, match="row 3"):
        next(items)
    assert prefetch_threads() == []


def test_a_consumer_that_stops_early_ends_the_thread_at_most_depth_items_ahead():
    produced, is_ahead = [], threading.Event()

    def produce():
        for number in range(100):
            produced.append(number)
            if number == 4:
                is_ahead.set()
            yield number

    items = prefetch(produce, depth=3)
    assert next(items) == 0
    assert is_ahead.wait(10)
    items.close()
    assert prefetch_threads() == []
    assert produced == [0, 1, 2, 3, 4]  # consumed, three in the queue, one waiting for room in the queue
