from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.corpus import NearDuplicatesConfig
from distilray.corpus.duplicates import (
    band_keys,
    exact_duplicates,
    near_duplicates,
    pack_signatures,
    rows_with_shared_keys,
    signatures,
    similarity,
    text_key,
)

CONFIG = NearDuplicatesConfig()
Sentences = st.lists(st.text(alphabet="abcdé 1.,", max_size=40), max_size=6)


def keys_of(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.uint64)


def pairs_of(jaccard: float, *, words: int, pairs: int) -> list[list[str]]:
    """Neighbouring documents of one-word n-grams with this Jaccard similarity, other pairs have no word in common."""
    shared = round(2 * words * jaccard / (1 + jaccard))
    documents = []
    for pair in range(pairs):
        names = [f"{pair}x{number}" for number in range(2 * words - shared)]
        documents += [[" ".join(names[:words])], [" ".join(names[words - shared :])]]
    return documents


def words_of(sentences: list[str]) -> list[str]:
    return " ".join(sentences).replace(".", " ").replace(",", " ").split()


@given(Sentences, Sentences, st.sampled_from([str.upper, str.lower, str.title, str.split]))
def test_a_text_key_depends_on_the_words_only(
    sentences: list[str], other: list[str], change: Callable[[str], str | list[str]]
) -> None:
    changed = change(" ".join(sentences))
    assert text_key([changed] if isinstance(changed, str) else changed) == text_key(sentences)
    assert text_key([sentence.replace(" ", " \t - ") for sentence in sentences]) == text_key(sentences)
    assert (text_key(sentences) == text_key(other)) == (words_of(sentences) == words_of(other))
    assert len(text_key(sentences)) == 16


@given(st.lists(Sentences, max_size=5))
@settings(max_examples=40)
def test_a_signature_does_not_depend_on_the_documents_beside_it(documents: list[list[str]]) -> None:
    together = signatures(documents, CONFIG)
    assert together.shape == (len(documents), 128)
    for row, document in zip(together, documents, strict=True):
        assert (row == signatures([document], CONFIG)[0]).all()


def test_signatures_are_the_same_on_every_machine() -> None:
    made = signatures([["The dog barks at the man who brings the letters."]], CONFIG)
    assert made[0, :4].tolist() == [1286578922, 2211870970, 3416870429, 3400633507]


def test_a_document_shorter_than_an_ngram_is_similar_to_its_copy_only() -> None:
    documents = [["Dogs bark."], ["dogs bark"], ["Cats bark."], ["..."], []]
    left, copy, other, no_word, empty = pack_signatures(signatures(documents, CONFIG))
    assert similarity(left, copy) == similarity(no_word, empty) == 1
    assert similarity(left, other) < 0.1


@pytest.mark.parametrize("jaccard", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("words", [40, 1000])
def test_packed_signatures_estimate_the_jaccard_similarity(jaccard: float, words: int) -> None:
    config = CONFIG.model_copy(update={"ngram_words": 1})
    packed = pack_signatures(signatures(pairs_of(jaccard, words=words, pairs=60), config)).reshape(60, 2, 128)
    assert similarity(packed[:, 0], packed[:, 1]).mean() == pytest.approx(jaccard, abs=0.02)


def test_unrelated_packed_signatures_have_a_similarity_of_zero_on_average() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, 2000, 128), dtype=np.uint8)
    assert similarity(left, right).mean() == pytest.approx(0, abs=0.001)


def test_a_band_has_one_key_for_the_same_values_and_another_elsewhere() -> None:
    values = np.zeros(128, dtype=np.uint32)
    changed = values.copy()
    changed[0] += 1
    keys = band_keys(np.stack([values, values, changed]), CONFIG)
    assert keys.shape == (3, 16)
    assert np.unique(keys[0]).size == 16
    assert (keys[0] == keys[1]).all()
    assert (keys[0] == keys[2]).tolist() == [False] + [True] * 15


@pytest.mark.parametrize(("jaccard", "low", "high"), [(0.9, 0.97, 1.0), (0.5, 0.0, 0.0)])
def test_near_duplicates_are_found_and_related_texts_are_not(jaccard: float, low: float, high: float) -> None:
    config = CONFIG.model_copy(update={"ngram_words": 1})
    made = signatures(pairs_of(jaccard, words=200, pairs=150), config)
    ordinals, packed = np.arange(300, dtype=np.uint64), pack_signatures(made)
    duplicates = set()
    for keys in band_keys(made, config).T:
        duplicates |= set(near_duplicates(ordinals, keys, packed, threshold=0.8)[0].tolist())
    assert low <= len(duplicates) / 150 <= high
    assert all(ordinal % 2 for ordinal in duplicates)


def expected_similar(keys: list[int], packed: np.ndarray, threshold: float) -> dict[int, int]:
    """Document by document in the order of the corpus: the first one kept of its bucket that is similar."""
    kept: dict[int, list[int]] = {}
    dropped = {}
    for ordinal, key in enumerate(keys):
        bucket = kept.setdefault(key, [])
        match = next((one for one in bucket if similarity(packed[one], packed[ordinal]) >= threshold), None)
        if match is None:
            bucket.append(ordinal)
        else:
            dropped[ordinal] = match
    return dropped


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 255)), max_size=25), st.randoms(use_true_random=False))
def test_each_document_is_compared_with_those_kept_before_it(rows: list[tuple[int, int]], random: object) -> None:
    keys = [key for key, _ in rows]
    packed = np.array([[byte >> bit & 1 for bit in range(8)] for _, byte in rows], dtype=np.uint8).reshape(-1, 8)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    dropped, kept = near_duplicates(keys_of(order), keys_of(keys)[order], packed[order], threshold=0.7)
    assert dict(zip(dropped.tolist(), kept.tolist(), strict=True)) == expected_similar(keys, packed, 0.7)
    assert dropped.tolist() == sorted(dropped.tolist())


@pytest.mark.parametrize(
    ("ordinals", "values", "threshold", "expected"),
    [([7, 3], [0, 0], 1.0, ([7], [3])), (range(68), [*range(66), 63, 64], 0.8, ([66], [63]))],
    ids=["equal at the highest threshold", "64 documents of a bucket are compared"],
)
def test_the_first_similar_document_of_a_bucket_is_kept(
    ordinals: Iterable[int], values: list[int], threshold: float, expected: tuple[list[int], list[int]]
) -> None:
    packed = np.array(values, dtype=np.uint8)[:, None].repeat(128, axis=1)
    dropped, kept = near_duplicates(keys_of(ordinals), keys_of([1] * len(values)), packed, threshold=threshold)
    assert (dropped.tolist(), kept.tolist()) == expected


@given(st.lists(st.integers(0, 6), max_size=30), st.randoms(use_true_random=False))
def test_the_earliest_of_equal_documents_is_kept(keys: list[int], random: object) -> None:
    order = list(range(len(keys)))
    random.shuffle(order)  # type: ignore[attr-defined]
    halves = np.stack([keys_of(key % 2 for key in keys), keys_of(key // 2 for key in keys)], axis=1).reshape(-1, 2)
    dropped, kept = exact_duplicates(keys_of(order), halves[order])
    expected = {ordinal: keys.index(key) for ordinal, key in enumerate(keys) if keys.index(key) != ordinal}
    assert dict(zip(dropped.tolist(), kept.tolist(), strict=True)) == expected
    assert dropped.tolist() == sorted(expected)


@given(st.lists(st.integers(0, 6), max_size=30))
def test_shared_rows_are_those_whose_key_occurs_twice(keys: list[int]) -> None:
    rows = rows_with_shared_keys(np.arange(len(keys), dtype=np.uint64), keys_of(keys))
    assert sorted(rows.tolist()) == [row for row, key in enumerate(keys) if keys.count(key) > 1]
