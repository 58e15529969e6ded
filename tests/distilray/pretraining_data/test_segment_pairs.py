import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.segment_pairs import Document, SegmentPairBuilder


def document(row, lengths, *, start=1000):
    ids = np.arange(start + row * 5000, start + row * 5000 + sum(lengths)).astype(np.uint16)
    return Document(row, np.split(ids, np.cumsum(lengths)[:-1]))


def builder(pool, **changes):
    values = {"max_seq_length": 64, "short_seq_prob": 0.1, "random_next_probability": 0.5, "pool": pool}
    return SegmentPairBuilder(**{**values, **changes})


def all_pairs(documents, copies=1, **changes):
    built = builder(documents, **changes)
    return [
        pair
        for doc in documents
        for copy in range(copies)
        for pair in built.pairs(doc, np.random.default_rng([9, doc.row, copy]))
    ]


DOCUMENTS = [
    document(row, np.random.default_rng(row).integers(3, 30, size=12 + row % 9).tolist(), start=100)
    for row in range(12)
]


def test_a_random_segment_comes_from_another_document():
    pairs = all_pairs(DOCUMENTS, copies=5)
    assert {pair.document_a == pair.document_b for pair in pairs if pair.is_random_next} == {False}
    assert {pair.document_a == pair.document_b for pair in pairs if not pair.is_random_next} == {True}


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_the_realised_share_of_random_segments_is_the_configured_one(probability):
    pairs = all_pairs(DOCUMENTS, copies=60, random_next_probability=probability)
    share = np.mean([pair.is_random_next for pair in pairs])
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / len(pairs))


def test_a_consecutive_pair_is_text_as_it_stands_in_the_document():
    for pair in all_pairs(DOCUMENTS, copies=3, random_next_probability=0.0, short_seq_prob=0.0):
        whole = np.concatenate(DOCUMENTS[pair.document_a].sentences)
        start_a, start_b = (int(np.flatnonzero(whole == part[0])[0]) for part in (pair.a, pair.b))
        assert np.array_equal(whole[start_a : start_a + len(pair.a)], pair.a)
        assert np.array_equal(whole[start_b : start_b + len(pair.b)], pair.b)
        assert start_a + len(pair.a) <= start_b


def test_without_random_segments_every_token_is_used_or_counted_as_trimmed():
    single = document(0, [20] * 9)
    pairs = list(builder([single], random_next_probability=0.0).pairs(single, np.random.default_rng(0)))
    used = sum(len(pair.a) + len(pair.b) for pair in pairs)
    assert used + sum(pair.trimmed for pair in pairs) >= 180


def test_a_document_of_one_sentence_gets_a_random_segment():
    lonely = document(50, [7])
    pairs = list(builder([*DOCUMENTS, lonely], random_next_probability=0.0).pairs(lonely, np.random.default_rng(1)))
    assert [pair.is_random_next for pair in pairs] == [True]


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=20),
    max_seq_length=st.integers(16, 80),
    seed=st.integers(0, 1000),
)
def test_a_pair_fits_and_neither_segment_is_empty(lengths, max_seq_length, seed):
    doc = document(99, lengths, start=0)
    for pair in builder(DOCUMENTS, max_seq_length=max_seq_length).pairs(doc, np.random.default_rng(seed)):
        assert len(pair.a) + len(pair.b) + 3 <= max_seq_length
        assert len(pair.a) > 0
        assert len(pair.b) > 0


def test_the_pairs_of_a_document_do_not_depend_on_the_documents_before_it():
    def pairs(first, second):
        built = builder(DOCUMENTS)
        list(built.pairs(first, np.random.default_rng(1)))
        return [(pair.a.tobytes(), pair.b.tobytes()) for pair in built.pairs(second, np.random.default_rng(2))]

    assert pairs(DOCUMENTS[0], DOCUMENTS[5]) == pairs(DOCUMENTS[3], DOCUMENTS[5])
