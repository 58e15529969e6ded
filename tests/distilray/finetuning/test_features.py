from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from distilray.errors import InputError
from distilray.finetuning.examples import Examples
from distilray.finetuning.features import Features, collate, encode_task, epoch_batches
from distilray.finetuning.files import TaskData
from distilray.finetuning.tasks import TASKS
from distilray.pretraining_data.tokenizer import canonical_json, read_tokenizer
from tests.tiny.tasks import data, features, settings, texts_of_lengths


def encoded(model_dir, first, second=None, *, max_length=32):
    labels = np.arange(len(first)) % 2
    task = TASKS["cola" if second is None else "rte"]
    rows = Examples(first, second, labels)
    whole = TaskData(task, rows, {"dev": rows}, {}, {})
    return encode_task(whole, read_tokenizer(model_dir), settings(max_length=max_length), seed=1).train


def assert_as_transformers(model_dir, found, first, second=None, *, max_length=32):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    wanted = tokenizer(first, second, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    for row, (ids, types) in enumerate(zip(wanted["input_ids"], wanted["token_type_ids"], strict=True)):
        start, stop = found.offsets[row : row + 2]
        assert found.input_ids[start:stop].tolist() == ids
        assert (np.arange(stop - start) >= found.second_starts[row]).astype(int).tolist() == types


def test_single_texts_are_encoded_and_cut_as_by_transformers(bert_dir):
    first = [*texts_of_lengths([1, 7, 29, 30, 31, 60]), ""]
    assert_as_transformers(bert_dir, encoded(bert_dir, first), first)


@pytest.mark.parametrize("max_length", [8, 9, 32])
def test_pairs_are_encoded_and_cut_as_by_transformers(bert_dir, max_length):
    first, second = (
        texts_of_lengths(lengths) for lengths in ([1, 40, 2, 20, 15, 14, 5, 6], [1, 2, 40, 20, 14, 15, 1, 3])
    )
    found = encoded(bert_dir, first, second, max_length=max_length)
    assert_as_transformers(bert_dir, found, first, second, max_length=max_length)


def test_rows_keep_their_order_and_labels(bert_dir):
    rows = data("sst2")
    found = encode_task(rows, read_tokenizer(bert_dir), settings(), seed=1)
    assert found.train.labels is rows.train.labels
    assert found.task == "sst2"
    assert len(found.train) == 15


def test_a_sample_is_the_same_for_a_seed_and_keeps_rows_with_their_labels(bert_dir):
    whole = features("stsb", bert_dir, train=300)
    few = [
        features("stsb", bert_dir, train=300, seed=seed, changes=settings(max_train_examples=20)) for seed in (1, 1, 2)
    ]
    assert [len(one.train) for one in few] == [20, 20, 20]
    assert np.array_equal(few[0].train.input_ids, few[1].train.input_ids)
    assert not np.array_equal(few[0].train.labels, few[2].train.labels)
    known = {tuple(row): label for row, label in zip(rows_of(whole.train), whole.train.labels, strict=True)}
    assert all(
        known[tuple(row)] == label for row, label in zip(rows_of(few[0].train), few[0].train.labels, strict=True)
    )
    assert len(few[0].dev["dev"]) == len(whole.dev["dev"])


def test_a_larger_sample_holds_the_smaller_one(bert_dir):
    small, large = (features("stsb", bert_dir, changes=settings(max_train_examples=count)).train for count in (5, 12))
    assert {tuple(row) for row in rows_of(small)} <= {tuple(row) for row in rows_of(large)}


def test_a_tokenizer_that_frames_no_pairs_is_refused(bert_dir):
    tokenizer = Tokenizer.from_str(read_tokenizer(bert_dir))
    tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(InputError, match=r"tokenizer.json: it does not write \[CLS\] A \[SEP\] B \[SEP\]"):
        encode_task(data("rte"), canonical_json(tokenizer), settings(), seed=1)


def test_the_tokenizer_of_the_process_is_not_made_to_cut(bert_dir):
    found = features("rte", bert_dir)
    assert '"truncation": null' in found.tokenizer_json


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 400, 401, 1000])
def test_every_row_is_used_once_in_an_epoch(rows):
    lengths = np.random.default_rng(0).integers(3, 60, rows)
    batches = epoch_batches(lengths, batch_size=8, seed=1, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    assert sorted(len(batch) for batch in batches)[1:] == [8] * (len(batches) - 1)
    assert len(batches) == -(-rows // 8)


def test_batches_of_similar_lengths_have_little_padding():
    lengths = np.random.default_rng(0).integers(8, 128, 4000)
    batches = epoch_batches(lengths, batch_size=32, seed=1, epoch=0)
    slots = sum(lengths[batch].max() * len(batch) for batch in batches)
    in_order = sum(lengths[start : start + 32].max() * 32 for start in range(0, 4000, 32))
    assert slots < 1.05 * lengths.sum() < 0.6 * in_order


def test_short_batches_do_not_come_first():
    lengths = np.random.default_rng(0).integers(8, 128, 1600)
    means = [lengths[batch].mean() for batch in epoch_batches(lengths, batch_size=32, seed=1, epoch=0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_seed_and_epoch_decide_the_order():
    lengths = np.full(40, 9)

    def order(seed, epoch):
        return np.concatenate(epoch_batches(lengths, batch_size=8, seed=seed, epoch=epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_a_batch_is_padded_behind_its_rows():
    rows = Features(
        np.array([2, 7, 3, 2, 8, 8, 8, 3, 9, 3], np.uint16),
        np.array([0, 3, 10]),
        np.array([3, 5], np.int32),
        np.array([1, 0]),
    )
    batch = collate(rows, np.array([1, 0]), 0)
    assert batch.input_ids.tolist() == [[2, 8, 8, 8, 3, 9, 3, 0], [2, 7, 3, 0, 0, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0] * 8]
    assert batch.labels.tolist() == [0, 1]
    assert collate(rows, np.array([1]), 0, multiple=1).input_ids.shape == (1, 7)


def test_the_last_row_is_padded_though_nothing_follows_it():
    rows = Features(np.array([2, 3], np.uint16), np.array([0, 2]), np.array([2], np.int32), None)
    batch = collate(replace(rows), np.array([0]), 5)
    assert batch.input_ids.tolist() == [[2, 3, 5, 5, 5, 5, 5, 5]]
    assert batch.labels is None


def rows_of(split):
    return np.split(split.input_ids, split.offsets[1:-1])
