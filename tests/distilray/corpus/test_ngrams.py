import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus import ngrams
from distilray.corpus.ngrams import HashedWords, hash_words, ngram_hashes, normalized_words

Word = st.text(alphabet="abcé1д", min_size=1, max_size=12)


def hashes(text: str, n: int) -> list[int]:
    return ngram_hashes(hash_words(normalized_words([text])), n).tolist()


@given(st.lists(Word, max_size=30), st.integers(1, 8))
def test_two_ngrams_share_a_hash_when_their_words_are_the_same(words: list[str], n: int) -> None:
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    found = hashes(" ".join(words), n)
    assert len(found) == len(grams)
    assert len(set(found)) == len(set(grams))


@pytest.mark.parametrize(
    ("left", "right"),
    [("a bc", "ab c"), ("a b", "b a"), ("aa a", "a aa"), ("a a", "a"), ("a" * 5000, "a" * 4999 + "b")],
)
def test_words_are_distinguished_by_their_bounds_and_order(left: str, right: str) -> None:
    assert set(hashes(left, 1)) != set(hashes(right, 1)) or hashes(left, 2) != hashes(right, 2)


def test_a_text_has_the_hashes_of_its_words_whatever_the_spaces_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"the dog  barks at a passing postman " * 20
    whole = hash_words(text).hashes
    assert (hash_words(b"  " + text.replace(b" ", b"  ")).hashes == whole).all()
    monkeypatch.setattr(ngrams, "_BLOCK", 7)
    assert (hash_words(text).hashes == whole).all()


def test_words_that_differ_in_one_letter_share_no_hash() -> None:
    words = [f"{first}{second}{third}" for first in "abcdefghij" for second in "abcdefghij" for third in range(1000)]
    assert np.unique(hash_words(" ".join(words).encode()).hashes).size == len(words)


def test_hashes_are_those_of_earlier_runs() -> None:
    expected = [8470704543913979905, 13704354253328315143, 5400308324238572089]
    assert hashes("The dog barks loudly at the man.", 5) == expected
    assert hashes("... !", 1) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The DOG's_tail, 3.5 km", b"the dog s tail 3 5 km"),
        ("Straße ﬁve ①", b"strasse five 1"),
        ("cafe\u0301 — CAFÉ", "café café".encode()),
        ("a\ud800b", b"a b"),
        ("数字と日本", "数 字 と 日 本".encode()),
        ("हिन्दी में।", "हिन्दी में".encode()),
    ],
)
def test_a_normalized_text_is_folded_words(text: str, expected: bytes) -> None:
    assert b" ".join(normalized_words([text]).split()) == expected


@given(st.lists(st.text(), max_size=4))
def test_a_normalized_text_is_that_of_its_sentences(sentences: list[str]) -> None:
    apart = b" ".join(normalized_words([sentence]) for sentence in sentences)
    assert normalized_words(sentences).split() == apart.split()


@pytest.mark.parametrize(
    ("text", "length"),
    [("the dog", 2), ("港口 in 1990", 4), ("この港は", 2.5), ("ท่าเรือเก่า", 2.75), ("", 0)],
)
def test_characters_of_scripts_without_spaces_are_parts_of_words(text: str, length: float) -> None:
    assert hash_words(normalized_words([text])).length == length


def test_ngrams_of_whole_words_are_the_same_by_either_sum() -> None:
    words = hash_words(b"the dog barks at the man who brings the letters")
    uneven = HashedWords(words.hashes, np.full(words.hashes.size, 4))
    assert (ngram_hashes(uneven, 3) == ngram_hashes(words, 3)).all()
    assert (uneven.ngram_ends(3) == words.ngram_ends(3)).all()


@pytest.mark.parametrize(("text", "n"), [("これは古い港です", 3), ("ท่าเรือเก่าแก่ของเมือง", 4), ("这个古老的港口", 5)])
def test_a_text_shares_its_ngrams_with_a_longer_one_around_it(text: str, n: int) -> None:
    inside = set(hashes(text, n))
    assert inside
    assert inside <= set(hashes(f"The かな {text} of 1990", n))
