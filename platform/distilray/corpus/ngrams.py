"""Words of a text without its typography, and 64-bit hashes of the n-grams that they form.

In scripts without spaces each character is hashed by itself and counts as a part of a word (see `corpus.scripts`): an
n-gram is as long as n words of text in every language.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.corpus.writing_systems import CHARACTERS_PER_WORD, COMBINING_MARKS, UNSPACED
from distilray.runtime.seeding import UInt64Array, hash_integers

_SEED = 0x6E6772616D73
_FACTOR = np.uint64(0xD6E8FEB86659FD93)  # odd: no bit of a word's hash is lost on its way through the powers
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 1 << 64))
_BLOCK = 1 << 20  # bytes that are hashed at a time; each takes 30 bytes of memory

_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)

_SPACE = 0x20
_LETTERS = rf"[^\W_{UNSPACED}]"
_VOWEL_SIGNS = "".join(
    mark for mark in COMBINING_MARKS if mark > "\u058f"
)  # of words; accents are part of their letter (NFKC)
_WORD = re.compile(rf"[{UNSPACED}]|{_LETTERS}+(?:[{_VOWEL_SIGNS}]+{_LETTERS}*)*")
_FOLDED_ASCII = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else _SPACE for code in range(256))

# A word is hashed as the sum of a number for each byte times an odd number for its place; a space counts nothing.
_OF_BYTE = np.where(np.arange(256) == _SPACE, np.uint64(0), hash_integers(_SEED, 0, np.arange(256)))
_PLACES = 1024  # a power of two
_OF_PLACE = hash_integers(_SEED, 1, np.arange(_PLACES)) | np.uint64(1)


# How much of a word a character is, by its code, in parts of a word; other words begin with any other character.
_PARTS = max(CHARACTERS_PER_WORD.values())
_SIZES = np.full(1 << 16, _PARTS, dtype=np.int64)
for _class, _characters in CHARACTERS_PER_WORD.items():
    for _first, _last in re.findall(r"(.)-(.)", _class):
        _SIZES[ord(_first) : ord(_last) + 1] = _PARTS // _characters
_THREE_BYTES = 0xE0  # begins a character of three bytes in UTF-8


@dataclass(frozen=True, eq=False)
class HashedWords:
    """The words of a text.

    Attributes:
        hashes: (words,)
        sizes: (words,) in parts of a word; None when all are whole words.
    """

    hashes: UInt64Array
    sizes: NDArray[np.int64] | None = None

    @property
    def length(self) -> float:
        """Of the text, in words."""
        return self.hashes.size if self.sizes is None else int(self.sizes.sum()) / _PARTS

    def ngram_ends(self, n: float) -> NDArray[np.int64]:
        """The word behind each n-gram (n-grams,); the first begins with the first word, the second with the second."""
        if self.sizes is None:
            return np.arange(int(n), self.hashes.size + 1)
        ends = np.cumsum(self.sizes)
        behind = np.searchsorted(ends, ends - self.sizes + int(n * _PARTS)) + 1
        return behind[: np.count_nonzero(behind <= ends.size)]


def normalized_words(sentences: Sequence[str]) -> bytes:
    """The words of a text in UTF-8, with spaces between them: runs of letters and digits, folded.

    Case, compatibility forms (Unicode NFKC), punctuation and white space make no difference but where they divide.
    """
    text = " ".join(sentences)
    if text.isascii():
        return text.encode().translate(_FOLDED_ASCII)
    return b" ".join(map(_normalised, sentences))


def hash_words(text: bytes) -> HashedWords:
    """The words of a normalised text; their hashes are the same in every process and on every machine."""
    if len(text) <= _BLOCK:
        return _hash_words(b" " + text)
    blocks = [_hash_words(b" " + block) for block in _blocks(text)]
    hashes = np.concatenate([block.hashes for block in blocks])
    if all(block.sizes is None for block in blocks):
        return HashedWords(hashes)
    return HashedWords(hashes, np.concatenate([_sizes(block) for block in blocks]))


def ngram_hashes(words: HashedWords, n: float) -> UInt64Array:
    """Hashes of the n-grams that begin with each word (n-grams,); empty when the text is shorter than n words.

    The words are the coefficients of a polynomial modulo 2**64, which is mixed at the end: two n-grams that differ
    share a hash with a probability of about 2**-60.
    """
    if words.sizes is not None:
        return _mixed(_uneven_sums(words, n))
    count = words.hashes.size - int(n) + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    sums = words.hashes[:count].copy()
    for place in range(1, int(n)):
        sums *= _FACTOR
        sums += words.hashes[place : place + count]
    return _mixed(sums)


def _uneven_sums(words: HashedWords, n: float) -> UInt64Array:
    """The same polynomials for n-grams of different numbers of words, as differences of sums from the beginning."""
    ends = words.ngram_ends(n)
    powers = np.full(words.hashes.size, _FACTOR)
    inverse = np.full(words.hashes.size, _INVERSE)
    powers[:1] = inverse[:1] = 1
    powers, inverse = np.multiply.accumulate(powers), np.multiply.accumulate(inverse)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words.hashes * inverse, dtype=np.uint64)])
    return (sums[ends] - sums[: ends.size]) * powers[ends - 1]


def _sizes(words: HashedWords) -> NDArray[np.int64]:
    return np.full(words.hashes.size, _PARTS) if words.sizes is None else words.sizes


def _normalised(sentence: str) -> bytes:
    if sentence.isascii():
        return sentence.encode().translate(_FOLDED_ASCII)
    # Folding can take a composed letter apart, hence the second round.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
    return " ".join(_WORD.findall(folded)).encode()


def _blocks(text: bytes) -> Iterator[bytes]:
    """Pieces that end where a word does."""
    start = 0
    while start < len(text):
        end = text.find(b" ", start + _BLOCK)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _hash_words(text: bytes) -> HashedWords:
    """The words of a text that begins with a space."""
    signs = np.frombuffer(text, dtype=np.uint8)
    inside = signs != _SPACE
    starts = np.flatnonzero(inside[1:] > inside[:-1]) + 1
    if not starts.size:
        return HashedWords(np.empty(0, dtype=np.uint64))
    first = starts[0]
    places = np.arange(first, signs.size) - np.repeat(starts, np.diff(starts, append=signs.size))
    values = np.take(_OF_BYTE, signs[first:])
    values *= np.take(_OF_PLACE, places & (_PLACES - 1))
    hashes = _mixed(np.add.reduceat(values, starts - first))
    lead = signs[starts]
    if lead.max() < _THREE_BYTES:
        return HashedWords(hashes)
    padded = np.append(signs, np.zeros(2, np.uint8)).astype(np.int64)
    code = (lead.astype(np.int64) & 0xF) << 12 | (padded[starts + 1] & 0x3F) << 6 | (padded[starts + 2] & 0x3F)
    sizes = np.where(lead >> 4 == _THREE_BYTES >> 4, _SIZES[code], _PARTS)
    return HashedWords(hashes, sizes if (sizes != _PARTS).any() else None)


def _mixed(values: UInt64Array) -> UInt64Array:
    """The values, changed in place, with each bit spread over all (the SplitMix64 finaliser, as in `seeding`)."""
    # `hash_integers` would take longer than the rest, since most documents are a few hundred words.
    for shift, factor in _ROUNDS:
        values ^= values >> shift
        values *= factor
    values ^= values >> np.uint64(31)
    return values
