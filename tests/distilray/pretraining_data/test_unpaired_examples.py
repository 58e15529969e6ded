from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.token_ids import TokenizedDocument, TokenizedDocuments
from distilray.pretraining_data.unpaired_examples import UnpairedExamples, bucket_of, read_unpaired
from tests.distilray.tiny_line import encode_config

DOCUMENTS = 30


def token_documents(rows):
    """Documents whose tokens tell where they stand: row * 200 + place."""
    documents, ids = [], [np.empty(0, np.uint16)]
    for row in rows:
        lengths = np.random.default_rng(row).integers(2, 12, size=2 + row % 9)
        documents.append(TokenizedDocument(row, sum(map(len, ids)), np.cumsum(lengths).tolist()))
        ids.append(np.arange(row * 200, row * 200 + lengths.sum()).astype(np.uint16))
    return TokenizedDocuments(np.concatenate(ids), documents)


def one_sentence(row):
    return TokenizedDocuments(np.arange(9, dtype=np.uint16), [TokenizedDocument(row, 0, [9])])


def buckets_of(drafts, buckets=1):
    """The bytes of each bucket, and the rows that were told."""
    written = []
    rows, sizes = drafts.write(lambda data: written.append(bytes(data)), buckets=buckets)
    whole = b"".join(written)
    return [whole[start:stop] for start, stop in pairwise(np.cumsum([0, *sizes]))], rows


def drafted(rows=range(DOCUMENTS), **changes):
    drafts = UnpairedExamples(encode_config(**changes))
    drafts.add(token_documents(rows))
    return drafts


def table_of(drafts):
    return read_unpaired(buckets_of(drafts)[0])


@pytest.mark.parametrize("changes", [{}, {"dupe_factor": 3}, {"mode": "paper"}, {"short_seq_prob": 0.9}])
def test_text_is_that_of_its_document_in_order(changes):
    rows = table_of(drafted(**changes)).to_pylist()
    assert len(rows) > DOCUMENTS
    for row in rows:
        text = np.array(row["text"])
        assert set(text // 200) == {row["example_id"] >> 32}
        assert (np.diff(text) == 1).all()
        assert 0 < row["a_tokens"] <= len(text)
        assert (row["a_tokens"] == len(text)) == (changes.get("mode") == "paper")


@pytest.mark.parametrize("buckets", [1, 2, 16])
def test_the_buckets_one_after_the_other_are_the_order_of_the_keys(buckets):
    data, told = buckets_of(drafted(), buckets)
    tables = [read_unpaired([part]) for part in data]
    assert [len(table) for table in tables] == told
    for bucket, table in enumerate(tables):
        assert set(bucket_of(table["shuffle_key"].to_numpy(), buckets)) <= {bucket}
    whole = table_of(drafted())
    assert pa.concat_tables(tables).to_pylist() == whole.to_pylist()
    assert (np.diff(whole["shuffle_key"].to_numpy().astype(object)) > 0).all()


def test_an_empty_bucket_is_no_byte():
    data, told = buckets_of(drafted(range(2)), 64)
    assert 0 in told
    assert [len(part) > 0 for part in data] == [rows > 0 for rows in told]


def test_no_document_writes_nothing():
    assert buckets_of(UnpairedExamples(encode_config()), 4) == ([b"", b"", b"", b""], [0, 0, 0, 0])


@pytest.mark.parametrize("size", [1, 7])
def test_how_documents_are_dealt_to_parts_changes_nothing(size):
    parts = [buckets_of(drafted(range(at, min(at + size, DOCUMENTS))))[0][0] for at in range(0, DOCUMENTS, size)]
    assert read_unpaired(parts).to_pylist() == table_of(drafted()).to_pylist()


def test_how_a_part_is_read_changes_nothing():
    drafts = UnpairedExamples(encode_config())
    for row in range(DOCUMENTS):
        drafts.add(token_documents([row]))
    assert table_of(drafts).to_pylist() == table_of(drafted()).to_pylist()


def test_example_ids_are_unique_and_tell_document_copy_and_number():
    ids = table_of(drafted(dupe_factor=3))["example_id"].to_numpy()
    assert len(np.unique(ids)) == len(ids)
    assert set(ids >> 32) == set(range(DOCUMENTS))
    assert set(ids >> 24 & 0xFF) == {0, 1, 2}
    for copy in np.unique(ids >> 24):
        numbers = np.sort(ids[ids >> 24 == copy] & 0xFFFFFF)
        assert numbers.tolist() == list(range(len(numbers)))


def test_copies_of_a_document_have_other_segments():
    rows = table_of(drafted(range(8, 200, 9), dupe_factor=2)).to_pylist()  # documents of ten sentences
    first, second = (
        {(row["text"][0], row["a_tokens"], len(row["text"])) for row in rows if row["example_id"] >> 24 & 0xFF == copy}
        for copy in (0, 1)
    )
    assert len(first & second) < len(first) / 2


def test_the_order_is_not_that_of_the_documents():
    documents = table_of(drafted())["example_id"].to_numpy() >> 32
    assert abs(np.corrcoef(documents, np.arange(len(documents)))[0, 1]) < 4 / np.sqrt(len(documents))


def test_another_seed_gives_another_order_and_other_segments():
    first, second = table_of(drafted(seed=1)), table_of(drafted(seed=2))
    assert first["shuffle_key"].to_pylist() != second["shuffle_key"].to_pylist()
    assert {tuple(text) for text in first["text"].to_pylist()} != {tuple(text) for text in second["text"].to_pylist()}


def test_documents_of_one_sentence_are_counted_in_every_copy():
    drafts = UnpairedExamples(encode_config(dupe_factor=3, random_next_probability=0.0))
    drafts.add(one_sentence(7))
    assert drafts.counts["single_segment_copies"] == 3
    assert table_of(drafts)["is_random_next"].to_pylist() == [True] * 3


def test_too_short_examples_are_dropped():
    kept = table_of(drafted(min_example_tokens=20)).to_pylist()
    assert kept
    assert min(min(len(row["text"]), row["room"]) + 3 for row in kept) >= 20
