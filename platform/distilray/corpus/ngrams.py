"""64-bit hashes of normalized words and word n-grams.

In scripts without spaces, each character is hashed on its own and counts as a fraction of a word (see
`corpus.writing_systems`), so that an n-gram covers n words of text in every language.
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
_FACTOR = np.uint64(0xD6E8FEB86659FD93)  # odd, so multiplication is invertible and loses no bits
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 1 << 64))
_BLOCK = 1 << 20  # bytes hashed per step; each takes 30 bytes of memory

_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)

_SPACE = 0x20
_LETTERS = rf"[^\W_{UNSPACED}]"
# Combining accents are excluded, since NFKC makes them part of their letter.
_VOWEL_SIGNS = "".join(mark for mark in COMBINING_MARKS if mark > "\u058f")
_WORD = re.compile(rf"[{UNSPACED}]|{_LETTERS}+(?:[{_VOWEL_SIGNS}]+{_LETTERS}*)*")
_FOLDED_ASCII = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else _SPACE for code in range(256))

# The hash of a word is the sum over its bytes of a random number per byte times a random odd number per position.
_BYTE_VALUES = np.where(np.arange(256) == _SPACE, np.uint64(0), hash_integers(_SEED, 0, np.arange(256)))
_POSITIONS = 1024  # a power of two
_POSITION_FACTORS = hash_integers(_SEED, 1, np.arange(_POSITIONS)) | np.uint64(1)

# Size of a word by the code of its first character, in units of 1/_UNITS of a word.
_UNITS = max(CHARACTERS_PER_WORD.values())
_SIZES = np.full(1 << 16, _UNITS, dtype=np.int64)
for _class, _characters in CHARACTERS_PER_WORD.items():
    for _first, _last in re.findall(r"(.)-(.)", _class):
        _SIZES[ord(_first) : ord(_last) + 1] = _UNITS // _characters
_THREE_BYTES = 0xE0  # smallest first byte of a 3-byte character in UTF-8


@dataclass(frozen=True, eq=False)
class HashedWords:
    """Hashed words of a text.

    Attributes:
        hashes: (words,)
        sizes: (words,) in units of `1 / _UNITS` of a word; None if all are full words.
    """

    hashes: UInt64Array
    sizes: NDArray[np.int64] | None = None

    @property
    def length(self) -> float:
        """Length of the text in words."""
        return self.hashes.size if self.sizes is None else int(self.sizes.sum()) / _UNITS

    def ngram_ends(self, n: float) -> NDArray[np.int64]:
        """Return the index after the last word of each n-gram (n-grams,). N-gram i starts at word i."""
        if self.sizes is None:
            return np.arange(int(n), self.hashes.size + 1)
        ends = np.cumsum(self.sizes)
        ngram_ends = np.searchsorted(ends, ends - self.sizes + int(n * _UNITS)) + 1
        return ngram_ends[: np.count_nonzero(ngram_ends <= ends.size)]


def normalized_words(sentences: Sequence[str]) -> bytes:
    """Return the words of a text, runs of letters and digits, case-folded and space-separated in UTF-8.

    Case, compatibility forms (Unicode NFKC), punctuation and whitespace are ignored, except that they separate words.
    """
    text = " ".join(sentences)
    if text.isascii():
        return text.encode().translate(_FOLDED_ASCII)
    return b" ".join(map(_normalize, sentences))


def hash_words(text: bytes) -> HashedWords:
    """Hash the words of a normalized text. Hashes are the same in every process and on every machine."""
    if len(text) <= _BLOCK:
        return _hash_words(b" " + text)
    blocks = [_hash_words(b" " + block) for block in _blocks(text)]
    hashes = np.concatenate([block.hashes for block in blocks])
    if all(block.sizes is None for block in blocks):
        return HashedWords(hashes)
    return HashedWords(hashes, np.concatenate([_sizes(block) for block in blocks]))


def ngram_hashes(words: HashedWords, n: float) -> UInt64Array:
    """Return the hash of the n-gram that starts at each word (n-grams,); empty if the text has fewer than n words.

    The hash is a polynomial modulo 2**64 with the word hashes as coefficients, and is mixed at the end. Two different
    n-grams collide with a probability of about 2**-60.
    """
    if words.sizes is not None:
        return _mix(_variable_length_sums(words, n))
    count = words.hashes.size - int(n) + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    sums = words.hashes[:count].copy()
    for offset in range(1, int(n)):
        sums *= _FACTOR
        sums += words.hashes[offset : offset + count]
    return _mix(sums)


def _variable_length_sums(words: HashedWords, n: float) -> UInt64Array:
    """Return the same polynomials for n-grams with different numbers of words, as differences of prefix sums."""
    ends = words.ngram_ends(n)
    powers = np.full(words.hashes.size, _FACTOR)
    inverse = np.full(words.hashes.size, _INVERSE)
    powers[:1] = inverse[:1] = 1
    powers, inverse = np.multiply.accumulate(powers), np.multiply.accumulate(inverse)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words.hashes * inverse, dtype=np.uint64)])
    return (sums[ends] - sums[: ends.size]) * powers[ends - 1]


def _sizes(words: HashedWords) -> NDArray[np.int64]:
    return np.full(words.hashes.size, _UNITS) if words.sizes is None else words.sizes


def _normalize(sentence: str) -> bytes:
    if sentence.isascii():
        return sentence.encode().translate(_FOLDED_ASCII)
    # Case folding can decompose a letter, so normalize again.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
    return " ".join(_WORD.findall(folded)).encode()


def _blocks(text: bytes) -> Iterator[bytes]:
    """Split a text into blocks that end at word boundaries."""
    start = 0
    while start < len(text):
        end = text.find(b" ", start + _BLOCK)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _hash_words(text: bytes) -> HashedWords:
    """Hash the words of a text that starts with a space."""
    codes = np.frombuffer(text, dtype=np.uint8)
    inside = codes != _SPACE
    starts = np.flatnonzero(inside[1:] > inside[:-1]) + 1
    if not starts.size:
        return HashedWords(np.empty(0, dtype=np.uint64))
    first = starts[0]
    positions = np.arange(first, codes.size) - np.repeat(starts, np.diff(starts, append=codes.size))
    values = np.take(_BYTE_VALUES, codes[first:])
    values *= np.take(_POSITION_FACTORS, positions & (_POSITIONS - 1))
    hashes = _mix(np.add.reduceat(values, starts - first))
    first_bytes = codes[starts]
    if first_bytes.max() < _THREE_BYTES:
        return HashedWords(hashes)
    padded = np.append(codes, np.zeros(2, np.uint8)).astype(np.int64)
    character = (first_bytes.astype(np.int64) & 0xF) << 12
    character |= (padded[starts + 1] & 0x3F) << 6 | (padded[starts + 2] & 0x3F)
    sizes = np.where(first_bytes >> 4 == _THREE_BYTES >> 4, _SIZES[character], _UNITS)
    return HashedWords(hashes, sizes if (sizes != _UNITS).any() else None)


def _mix(values: UInt64Array) -> UInt64Array:
    """Apply the SplitMix64 finalizer in place, as in `runtime.seeding`."""
    # `hash_integers` would take longer than everything else here: most documents have only a few hundred words.
    for shift, factor in _ROUNDS:
        values ^= values >> shift
        values *= factor
    values ^= values >> np.uint64(31)
    return values
