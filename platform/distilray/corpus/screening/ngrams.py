"""Words of a text without its typography, and 64-bit hashes of the n-grams that they form."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from distilray.runtime.seeding import UInt64Array, hash_integers

_SEED = 0x6E6772616D73
_FACTOR = np.uint64(0xD6E8FEB86659FD93)  # odd: no bit of a word's hash is lost on its way through the powers
_BLOCK = 1 << 20  # bytes that are hashed at a time; each takes 30 bytes of memory

_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)

_SPACE = 0x20
_WORD = re.compile(r"[^\W_]+")
_FOLDED_ASCII = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else _SPACE for code in range(256))

# A word is hashed as the sum of a number for each byte times an odd number for its place; a space counts nothing.
_OF_BYTE = np.where(np.arange(256) == _SPACE, np.uint64(0), hash_integers(_SEED, 0, np.arange(256)))
_PLACES = 1024  # a power of two
_OF_PLACE = hash_integers(_SEED, 1, np.arange(_PLACES)) | np.uint64(1)


def normalised(sentences: Sequence[str]) -> bytes:
    """The words of a text in UTF-8, with spaces between them: runs of letters and digits, folded.

    Case, compatibility forms (Unicode NFKC), punctuation and white space make no difference but where they divide.
    """
    text = " ".join(sentences)
    if text.isascii():
        return text.encode().translate(_FOLDED_ASCII)
    return b" ".join(map(_normalised, sentences))


def word_hashes(text: bytes) -> UInt64Array:
    """A hash for each word of a normalised text (words,), the same in every process and on every machine."""
    if len(text) <= _BLOCK:
        return _hash_words(b" " + text)
    return np.concatenate([_hash_words(b" " + block) for block in _blocks(text)])


def ngram_hashes(words: UInt64Array, n: int) -> UInt64Array:
    """Hashes of all n neighbouring words (words - n + 1,) by the hashes of the words; empty when they are fewer.

    The words are the coefficients of a polynomial modulo 2**64, which is mixed at the end: two n-grams that differ
    share a hash with a probability of about 2**-60.
    """
    count = words.size - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    sums = words[:count].copy()
    for place in range(1, n):
        sums *= _FACTOR
        sums += words[place : place + count]
    return _mixed(sums)


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


def _hash_words(text: bytes) -> UInt64Array:
    """Hashes of the words of a text that begins with a space."""
    signs = np.frombuffer(text, dtype=np.uint8)
    inside = signs != _SPACE
    starts = np.flatnonzero(inside[1:] > inside[:-1]) + 1
    if not starts.size:
        return np.empty(0, dtype=np.uint64)
    first = starts[0]
    places = np.arange(first, signs.size) - np.repeat(starts, np.diff(starts, append=signs.size))
    values = np.take(_OF_BYTE, signs[first:])
    values *= np.take(_OF_PLACE, places & (_PLACES - 1))
    return _mixed(np.add.reduceat(values, starts - first))


def _mixed(values: UInt64Array) -> UInt64Array:
    """The values, changed in place, with each bit spread over all (the SplitMix64 finaliser, as in `seeding`)."""
    # `hash_integers` would take longer than the rest, since most documents are a few hundred words.
    for shift, factor in _ROUNDS:
        values ^= values >> shift
        values *= factor
    values ^= values >> np.uint64(31)
    return values
