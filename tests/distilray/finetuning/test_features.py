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


def rows_of(split):
    return [tuple(row) for row in np.split(split.input_ids, split.offsets[1:-1])]


@pytest.mark.parametrize(
    ("first", "second", "max_length"),
    [
        ([1, 7, 29, 30, 31, 60, 0], None, 32),
        ([1, 40, 2, 20, 15, 14, 5, 6], [1, 2, 40, 20, 14, 15, 1, 3], 8),
        ([1, 40, 2, 20, 15, 14, 5, 6], [1, 2, 40, 20, 14, 15, 1, 3], 9),
        ([1, 40, 2, 20, 15, 14, 5, 6], [1, 2, 40, 20, 14, 15, 1, 3], 32),
    ],
    ids=["single texts", "pairs of 8 tokens", "pairs of 9 tokens", "pairs of 32 tokens"],
)
def test_texts_are_encoded_and_truncated_like_by_transformers(bert_dir, first, second, max_length):
    first, second = (None if lengths is None else texts_of_lengths(lengths) for lengths in (first, second))
    rows = Examples(first, second, np.arange(len(first)) % 2)
    task = TaskData(TASKS["rte" if second else "cola"], rows, {"dev": rows}, {}, {})
    split = encode_task(task, read_tokenizer(bert_dir), settings(max_length=max_length), seed=1).train
    peer = AutoTokenizer.from_pretrained(bert_dir)
    expected = peer(first, second, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    assert rows_of(split) == [tuple(ids) for ids in expected["input_ids"]]
    types = [(np.arange(n) >= start).tolist() for n, start in zip(split.lengths, split.second_starts, strict=True)]
    assert types == expected["token_type_ids"]
    assert split.labels is rows.labels


def test_a_sample_depends_on_the_seed_and_keeps_order_and_labels_of_its_rows(bert_dir):
    def sample(count, seed=1):
        return features("stsb", bert_dir, train=300, seed=seed, changes=settings(max_train_examples=count))

    whole, few, same, other, more = sample(None), sample(20), sample(20), sample(20, seed=2), sample(40)
    assert [len(task.train) for task in (few, other, more)] == [20, 20, 40]
    assert np.array_equal(few.train.input_ids, same.train.input_ids)
    assert not np.array_equal(few.train.labels, other.train.labels)
    labels = dict(zip(rows_of(whole.train), whole.train.labels, strict=True))
    assert [labels[row] for row in rows_of(few.train)] == few.train.labels.tolist()
    numbers = [list(labels).index(row) for row in rows_of(few.train)]
    assert numbers == sorted(numbers)
    assert set(rows_of(few.train)) <= set(rows_of(more.train))  # a larger sample contains a smaller one
    assert len(few.dev["dev"]) == len(whole.dev["dev"])
    assert few.task == "stsb"


def test_a_tokenizer_without_pairs_is_refused(bert_dir):
    tokenizer = Tokenizer.from_str(read_tokenizer(bert_dir))
    tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(InputError, match=r"tokenizer.json: it does not write \[CLS\] A \[SEP\] B \[SEP\]"):
        encode_task(data("rte"), canonical_json(tokenizer), settings(), seed=1)


def test_the_stored_tokenizer_does_not_truncate(bert_dir):
    assert '"truncation": null' in features("rte", bert_dir).tokenizer_json


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 400, 401, 1000])
def test_an_epoch_contains_every_row_once(rows):
    batches = epoch_batches(np.random.default_rng(0).integers(3, 60, rows), batch_size=8, seed=1, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    assert sorted(len(batch) for batch in batches)[1:] == [8] * (-(-rows // 8) - 1)


def test_batches_have_little_padding_and_a_random_order():
    lengths = np.random.default_rng(0).integers(8, 128, 4000)
    batches = epoch_batches(lengths, batch_size=32, seed=1, epoch=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    unsorted = sum(lengths[start : start + 32].max() * 32 for start in range(0, 4000, 32))
    assert padded < 1.05 * lengths.sum() < 0.6 * unsorted
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_seed_and_epoch_determine_the_order():
    def order(seed, epoch):
        return np.concatenate(epoch_batches(np.full(40, 9), batch_size=8, seed=seed, epoch=epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_rows_are_padded_on_the_right_to_a_multiple_of_8_tokens():
    ids, offsets = np.array([2, 7, 3, 2, 8, 8, 8, 3, 9, 3], np.uint16), np.array([0, 3, 10])
    rows = Features(ids, offsets, np.array([3, 5], np.int32), np.array([1, 0]))
    batch = collate(rows, np.array([1, 0]), 5)
    assert batch.input_ids.tolist() == [[2, 8, 8, 8, 3, 9, 3, 5], [2, 7, 3, 5, 5, 5, 5, 5]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0] * 8]
    assert batch.labels.tolist() == [0, 1]
    assert collate(rows, np.array([1]), 0, multiple=1).input_ids.shape == (1, 7)
    last = Features(ids[:2], np.array([0, 2]), np.array([2], np.int32), None)
    assert collate(last, np.array([0]), 5).input_ids.tolist() == [[2, 7, 5, 5, 5, 5, 5, 5]]
    assert collate(last, np.array([0]), 5).labels is None
