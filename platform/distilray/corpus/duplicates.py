"""Documents that say the same as an earlier one: what they are known by, and who is dropped.

Near duplicates are found by MinHash (Broder 1997), here with the sketch of the `rensa` package (Dahlgaard, Knudsen,
Thorup 2017), and locality-sensitive hashing in bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3).
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[import-untyped]

from distilray.config.corpus import NearDuplicatesConfig
from distilray.corpus.ngrams import hash_words, ngram_hashes, normalized_words
from distilray.runtime.seeding import UInt64Array, hash_integers

_SEED = 0x6475706C
# An unrelated pair of values shares its low byte with this probability.
_BY_CHANCE = 1 / 256
_REPRESENTATIVES = 64
_ROWS = 1 << 15  # signatures that are compared at a time, about 8 MB

UInt8Array = NDArray[np.uint8]
DuplicatePairs = tuple[UInt64Array, UInt64Array]


def text_key(sentences: Sequence[str]) -> bytes:
    """16 bytes that two texts share when they are the same but for case, punctuation, white space and sentence ends."""
    return blake2b(b" ".join(normalized_words(sentences).split()), digest_size=16).digest()


def signatures(documents: Sequence[Sequence[str]], config: NearDuplicatesConfig) -> NDArray[np.uint32]:
    """MinHash values (documents, bands * rows_per_band) of the word n-grams, the same in every process.

    A document of fewer words than `ngram_words` has all of them as its one n-gram. Documents without a word are alike.
    """
    texts = [hash_words(normalized_words(sentences)) for sentences in documents]
    sets = [ngram_hashes(words, min(config.ngram_words, words.length)) for words in texts]
    places = config.bands * config.rows_per_band
    if not sets:
        return np.empty((0, places), dtype=np.uint32)
    ends = np.cumsum([0, *(ngrams.size for ngrams in sets)], dtype=np.uint64)
    made = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), ends, places, _SEED)
    return np.array(made.to_rows(), dtype=np.uint32)


def band_keys(signatures: NDArray[np.uint32], config: NearDuplicatesConfig) -> UInt64Array:
    """A key for each band (documents, bands) of signatures (documents, places)."""
    bands = signatures.reshape(-1, config.bands, config.rows_per_band)
    return hash_integers(_SEED, np.arange(config.bands), *np.moveaxis(bands, 2, 0))


def pack_signatures(signatures: NDArray[np.uint32]) -> UInt8Array:
    """The low byte of each value: a quarter of the size at little loss (b-bit MinHash, Li and Koenig 2010)."""
    return signatures.astype(np.uint8)


def similarity(left: UInt8Array, right: UInt8Array) -> NDArray[np.float64]:
    """Estimated Jaccard similarity (...) of packed signatures (..., places); below 0 by chance when nothing is shared.

    Its standard error is 0.035 for a similarity of 0.8 and 128 places, as that of all bits.
    """
    return ((left == right).mean(axis=-1) - _BY_CHANCE) / (1 - _BY_CHANCE)


def rows_with_shared_keys(ordinals: UInt64Array, keys: UInt64Array) -> NDArray[np.intp]:
    """Rows whose key (rows,) or (rows, 2) another row has too, by key and, in the bucket of a key, by ordinal.

    Only these need a signature. Ordinals are the places of the documents in the corpus, each there once.
    """
    columns = keys if keys.ndim == 2 else keys[:, None]
    order = np.argsort(columns[:, 0], kind="stable")
    order = order[_has_equal_neighbour(columns[order, :1])]
    order = order[np.lexsort((ordinals[order], *columns[order].T))]
    return order[_has_equal_neighbour(columns[order])]


def exact_duplicates(ordinals: UInt64Array, keys: UInt64Array) -> DuplicatePairs:
    """The documents that are dropped, in order, and for each the one that is kept: the earliest with the same key.

    Args:
        ordinals: (rows,) in any order.
        keys: (rows, 2) the two halves of 16-byte keys, or (rows,).
    """
    rows = rows_with_shared_keys(ordinals, keys)
    starts, buckets = _buckets(keys[rows])
    later = np.ones(rows.size, dtype=bool)
    later[starts] = False
    return _by_dropped(ordinals, rows[later], rows[starts][buckets][later])


def near_duplicates(
    ordinals: UInt64Array, keys: UInt64Array, packed: UInt8Array, *, threshold: float
) -> DuplicatePairs:
    """The documents that are dropped, in order, and for each the one that is kept: the earliest similar of its bucket.

    In the order of the corpus, a document that is similar to no one kept is kept itself. It is compared with the
    first 64 of its bucket that were kept: a bound, so that a bucket of 100,000 look-alikes takes linear time.

    Args:
        ordinals: (rows,) in any order.
        keys: (rows,) of one band; rows with the same key are a bucket.
        packed: (rows, places) the signatures.
        threshold: the similarity from which the later one is dropped.
    """
    rows = rows_with_shared_keys(ordinals, keys)
    dropped, kept = [rows[:0]], [rows[:0]]
    for _ in range(_REPRESENTATIVES):
        starts, buckets = _buckets(keys[rows])
        first = rows[starts][buckets]
        alike = _alike(packed, first, rows, threshold) & (first != rows)
        dropped.append(rows[alike])
        kept.append(first[alike])
        rows = rows[~alike & (first != rows)]
        if not rows.size:
            break
    return _by_dropped(ordinals, np.concatenate(dropped), np.concatenate(kept))


def _has_equal_neighbour(columns: UInt64Array) -> NDArray[np.bool_]:
    same = (columns[1:] == columns[:-1]).all(axis=1)
    return (np.append(same, False) | np.append(False, same))[: len(columns)]


def _buckets(keys: UInt64Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first row of each bucket (buckets,) and the number of the bucket of each row (rows,), by sorted keys."""
    columns = keys if keys.ndim == 2 else keys[:, None]
    begins = np.append(True, (columns[1:] != columns[:-1]).any(axis=1))[: len(columns)]
    return np.flatnonzero(begins), np.cumsum(begins) - 1


def _by_dropped(ordinals: UInt64Array, dropped: NDArray[np.intp], kept: NDArray[np.intp]) -> DuplicatePairs:
    order = np.argsort(ordinals[dropped])
    return ordinals[dropped[order]], ordinals[kept[order]]


def _alike(packed: UInt8Array, left: NDArray[np.intp], right: NDArray[np.intp], threshold: float) -> NDArray[np.bool_]:
    found = np.empty(left.size, dtype=bool)
    for at in range(0, left.size, _ROWS):
        block = slice(at, at + _ROWS)
        found[block] = similarity(packed[left[block]], packed[right[block]]) >= threshold
    return found
