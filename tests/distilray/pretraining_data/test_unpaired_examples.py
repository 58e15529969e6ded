from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.token_ids import TokenizedDocument, TokenizedDocuments
from distilray.pretraining_data.unpaired_examples import UnpairedExamples, bucket_of, read_unpaired
from tests.tiny.shards import encode_config

DOCUMENTS = 30
UNK = 60_000  # not a token of `token_documents`


def token_documents(rows):
    """Return documents whose tokens are row * 200 + position."""
    documents, ids = [], [np.empty(0, np.uint16)]
    for row in rows:
        lengths = np.random.default_rng(row).integers(2, 12, size=2 + row % 9)
        documents.append(TokenizedDocument(row, sum(map(len, ids)), np.cumsum(lengths).tolist()))
        ids.append(np.arange(row * 200, row * 200 + lengths.sum()).astype(np.uint16))
    return TokenizedDocuments(np.concatenate(ids), documents)


def buckets_of(unpaired, buckets=1):
    """Return the bytes and the reported number of rows of each bucket."""
    messages = []
    rows, sizes = unpaired.write(lambda data: messages.append(bytes(data)), buckets=buckets)
    data = b"".join(messages)
    return [data[start:stop] for start, stop in pairwise(np.cumsum([0, *sizes]))], rows


def planned(*batches, **changes):
    """Plan the examples of some batches of documents, by default of all in one batch."""
    unpaired = UnpairedExamples(encode_config(**changes), UNK)
    for rows in batches or [range(DOCUMENTS)]:
        unpaired.add(token_documents(rows))
    return unpaired


def table_of(unpaired):
    return read_unpaired(buckets_of(unpaired)[0])


@pytest.mark.parametrize("changes", [{}, {"dupe_factor": 3}, {"mode": "paper"}, {"short_seq_prob": 0.9}], ids=str)
def test_text_is_that_of_its_document_in_order(changes):
    rows = table_of(planned(**changes)).to_pylist()
    assert len(rows) > DOCUMENTS
    for row in rows:
        text = np.array(row["text"])
        assert set(text // 200) == {row["example_id"] >> 32}
        assert (np.diff(text) == 1).all()
        assert 0 < row["a_tokens"] <= len(text)
        assert (row["a_tokens"] == len(text)) == (changes.get("mode") == "paper")


@pytest.mark.parametrize("buckets", [1, 2, 16, 64])
def test_buckets_contain_the_examples_sorted_by_key(buckets):
    data, rows = buckets_of(planned(), buckets)
    assert [len(part) > 0 for part in data] == [count > 0 for count in rows]
    tables = [read_unpaired([part]) for part in data]
    assert [len(table) for table in tables] == rows
    for bucket, table in enumerate(tables):
        assert set(bucket_of(table["shuffle_key"].to_numpy(), buckets)) <= {bucket}
    whole = table_of(planned())
    assert pa.concat_tables(tables).to_pylist() == whole.to_pylist()
    assert all(before < after for before, after in pairwise(whole["shuffle_key"].to_pylist()))
    documents = whole["example_id"].to_numpy() >> 32
    assert abs(np.corrcoef(documents, np.arange(len(documents)))[0, 1]) < 4 / np.sqrt(len(documents))


def test_without_documents_all_buckets_are_empty():
    assert buckets_of(UnpairedExamples(encode_config(), UNK), 4) == ([b"", b"", b"", b""], [0, 0, 0, 0])


@pytest.mark.parametrize("size", [1, 7])
def test_neither_chunks_nor_batches_of_documents_change_the_examples(size):
    batches = [range(start, min(start + size, DOCUMENTS)) for start in range(0, DOCUMENTS, size)]
    expected = table_of(planned()).to_pylist()
    assert read_unpaired([buckets_of(planned(batch))[0][0] for batch in batches]).to_pylist() == expected
    assert table_of(planned(*batches)).to_pylist() == expected


def test_example_ids_are_unique_and_encode_document_copy_and_number():
    ids = table_of(planned(dupe_factor=3))["example_id"].to_numpy()
    assert len(np.unique(ids)) == len(ids)
    assert set(ids >> 32) == set(range(DOCUMENTS))
    assert set(ids >> 24 & 0xFF) == {0, 1, 2}
    for copy in np.unique(ids >> 24):
        numbers = np.sort(ids[ids >> 24 == copy] & 0xFFFFFF)
        assert numbers.tolist() == list(range(len(numbers)))


def test_copies_of_a_document_have_different_segments():
    rows = table_of(planned(range(8, 200, 9), dupe_factor=2)).to_pylist()  # documents of ten sentences
    first, second = (
        {(row["text"][0], row["a_tokens"], len(row["text"])) for row in rows if row["example_id"] >> 24 & 0xFF == copy}
        for copy in (0, 1)
    )
    assert len(first & second) < len(first) / 2


def test_another_seed_gives_another_order_and_other_segments():
    first, second = table_of(planned(seed=1)), table_of(planned(seed=2))
    assert first["shuffle_key"].to_pylist() != second["shuffle_key"].to_pylist()
    assert {tuple(text) for text in first["text"].to_pylist()} != {tuple(text) for text in second["text"].to_pylist()}


@pytest.mark.parametrize("mode", ["card", "paper"])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_short_examples_have_the_configured_frequency(mode, probability):
    rooms = table_of(planned(mode=mode, short_seq_prob=probability))["room"].to_numpy()
    full = 32 - (3 if mode == "card" else 2)  # without special tokens
    assert (rooms == full).all() if probability == 0 else (rooms == full).mean() < 0.2


def test_documents_with_one_sentence_are_counted_in_every_copy():
    unpaired = UnpairedExamples(encode_config(dupe_factor=3, random_next_probability=0.0), UNK)
    unpaired.add(TokenizedDocuments(np.arange(9, dtype=np.uint16), [TokenizedDocument(7, 0, [9])]))
    assert unpaired.counts["single_segment_copies"] == 3
    assert table_of(unpaired)["is_random_next"].to_pylist() == [True] * 3


def test_examples_that_are_too_short_are_dropped():
    lengths, kept = (
        [min(len(row["text"]), row["room"]) + 3 for row in table_of(planned(min_example_tokens=least)).to_pylist()]
        for least in (3, 20)
    )
    assert sorted(kept) == sorted(length for length in lengths if length >= 20)
    assert 20 in kept


def with_unknown_windows(mode):
    """Plan two documents of windows of 30 tokens, of which 15, 16 and 0, and 30 and 1 are unknown."""
    unpaired = UnpairedExamples(encode_config(mode=mode), UNK)
    for row, windows in ((7, (15, 16, 0)), (8, (30, 1))):
        ids = np.concatenate([[UNK] * unknown + [9] * (30 - unknown) for unknown in windows]).astype(np.uint16)
        unpaired.add(TokenizedDocuments(ids, [TokenizedDocument(row, 0, range(30, len(ids) + 1, 30))]))
    return unpaired


def test_paper_mode_drops_and_counts_examples_of_which_half_is_unknown():
    unpaired = with_unknown_windows("paper")
    kept = {(example_id >> 32, example_id & 0xFFFFFF) for example_id in table_of(unpaired)["example_id"].to_pylist()}
    assert kept == {(7, 0), (7, 2), (8, 1)}  # with two special tokens, 16 unknown tokens are half of an example
    assert (unpaired.counts["dropped_unknown"], unpaired.counts["dropped_unknown_tokens"]) == (2, 60)


def test_card_mode_keeps_unknown_tokens():
    unpaired = with_unknown_windows("card")
    assert [UNK] * 30 in [text[:30] for text in table_of(unpaired)["text"].to_pylist()]
    assert unpaired.counts["dropped_unknown"] == unpaired.counts["dropped_unknown_tokens"] == 0
