"""Masking as a pure function of (seed, epoch, example id): the same bits for any worker, batch or order.

The rule is the model card's: of the ordinary tokens of each segment, round(15%) are predicted; the model sees `[MASK]`
for 80% of them, another token for 10%, the token itself for 10%. Each predicted token draws what is seen by itself.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from distilray.config.pretraining_data import MaskingConfig
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.runtime.seeding import UInt64Array, extend_hash, hash_integers, uniform

_ACTION, _TOKEN = range(2)  # what a further random number of a token is used for
# Tokens are put in order as single integers: segment, random key, position in the row.
_POSITION_BITS, _KEY_BITS = 12, 35
# Rows masked at once: the arrays of so few stay in the cache of a core, and their segments fit the bits that are left.
_CHUNK_ROWS = 256

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class MaskedExamples:
    """Masked examples as flat arrays.

    Attributes:
        input_ids: what the model sees; rows one after the other, as they came in.
        mask_offsets: (rows + 1,) where the mask positions of each row begin.
        mask_positions: position inside the row of each token to predict, ascending.
        mask_labels: the original id there.
    """

    input_ids: NDArray[np.uint16]
    mask_offsets: Int64Array
    mask_positions: NDArray[np.uint16]
    mask_labels: NDArray[np.uint16]


@dataclass(frozen=True)
class _Candidates:
    """The ordinary tokens of some rows.

    Attributes:
        flat: (tokens,) place in the ids.
        row, position, segment: (tokens,) segments are numbered 2 x row, 2 x row + 1.
        sizes: (2 x rows,) ordinary tokens of each segment.
        wanted: (2 x rows,) how many of them to predict.
    """

    flat: Int64Array
    row: Int64Array
    position: Int64Array
    segment: Int64Array
    sizes: Int64Array
    wanted: Int64Array


@dataclass(frozen=True)
class Masker:
    """The masks of examples.

    With `config.rare_token_exponent` e above 0, tokens are drawn without replacement with weight count ** -e, as the
    original's `mlm_smoothing` weighs them. With `config.whole_words` the words of a segment are tried in random order
    and taken while they fit: never more tokens than without the option, fewer when no remaining word fits. The weight
    of a word is that of its rarest piece, which the mean would hide among common ones.

    Attributes:
        seed: of the recipe.
        token_counts: (vocabulary size,) how often each id occurs in the train documents; needed when
            `config.rare_token_exponent` is above 0.
    """

    vocabulary: Vocabulary
    config: MaskingConfig
    seed: int
    token_counts: Int64Array | None = None

    def __post_init__(self) -> None:
        if self.config.rare_token_exponent:
            assert self.token_counts is not None, "weights of tokens need their counts"
            assert len(self.token_counts) == self.vocabulary.size, "one count for each id"

    def mask(
        self,
        ids: NDArray[np.uint16],
        *,
        offsets: Int64Array,
        segment_b_start: NDArray[np.integer],
        example_ids: Int64Array,
        epochs: Int64Array | int = 0,
    ) -> MaskedExamples:
        """Masks a batch of examples.

        Args:
            ids: the ids of all rows, one after the other; a row is at most 4,096 long.
            offsets: (rows + 1,) where each row begins in `ids`.
            segment_b_start: (rows,) position of the first token of segment B inside its row.
            example_ids: (rows,) unique ids of the examples.
            epochs: (rows,) or one for all: 0 for static masks; another number gives other masks of the same examples.
        """
        keys = hash_integers(self.seed, np.broadcast_to(epochs, len(example_ids)), example_ids)
        seen = ids.copy()
        positions, labels, counts = [np.empty(0, np.uint16)], [np.empty(0, np.uint16)], [np.zeros(1, np.int64)]
        for start, stop in _chunks(len(example_ids)):
            found = self._candidates(ids, offsets[start : stop + 1], segment_b_start[start:stop])
            chosen = self._choose(ids, found, keys[start:stop])
            row = chosen >> _POSITION_BITS
            position = chosen & ((1 << _POSITION_BITS) - 1)
            flat = offsets[start:stop][row] + position
            labels.append(ids[flat])
            seen[flat] = self._seen(labels[-1], extend_hash(keys[start:stop][row], position))
            positions.append(position.astype(np.uint16))
            counts.append(np.bincount(row, minlength=stop - start))
        return MaskedExamples(
            input_ids=seen,
            mask_offsets=np.cumsum(np.concatenate(counts)),
            mask_positions=np.concatenate(positions),
            mask_labels=np.concatenate(labels),
        )

    def count(
        self,
        ids: NDArray[np.uint16],
        *,
        offsets: Int64Array,
        segment_b_start: NDArray[np.integer],
        example_ids: Int64Array,
        epochs: Int64Array | int = 0,
    ) -> Int64Array:
        """(rows,) how many tokens `mask` with the same arguments predicts in each row."""
        if self.config.whole_words:
            masked = self.mask(
                ids, offsets=offsets, segment_b_start=segment_b_start, example_ids=example_ids, epochs=epochs
            )
            return np.diff(masked.mask_offsets)
        wanted = [np.zeros(0, np.int64)]
        for start, stop in _chunks(len(example_ids)):
            found = self._candidates(ids, offsets[start : stop + 1], segment_b_start[start:stop])
            wanted.append(found.wanted.reshape(-1, 2).sum(axis=1))
        return np.concatenate(wanted)

    @cached_property
    def _is_ordinary(self) -> NDArray[np.bool_]:
        found = np.ones(2**16, dtype=bool)
        found[list(self.vocabulary.special)] = False
        return found

    @cached_property
    def _weights(self) -> NDArray[np.float64] | None:
        if not self.config.rare_token_exponent:
            return None
        counts = np.maximum(np.asarray(self.token_counts, dtype=np.float64), 1.0)
        return np.asarray(counts**-self.config.rare_token_exponent)

    def _candidates(
        self, ids: NDArray[np.uint16], offsets: Int64Array, segment_b_start: NDArray[np.integer]
    ) -> _Candidates:
        lengths = np.diff(offsets)
        assert not len(lengths) or lengths.max() <= 1 << _POSITION_BITS
        flat = np.flatnonzero(self._is_ordinary[ids[offsets[0] : offsets[-1]]]) + offsets[0]
        row = np.repeat(np.arange(len(lengths)), lengths)[flat - offsets[0]]
        position = flat - offsets[row]
        segment = 2 * row + (position >= segment_b_start[row])
        sizes = np.bincount(segment, minlength=2 * len(lengths))
        wanted = np.floor(self.config.mlm_probability * sizes + 0.5).astype(np.int64)
        return _Candidates(flat, row, position, segment, sizes, wanted)

    def _choose(self, ids: NDArray[np.uint16], found: _Candidates, row_keys: UInt64Array) -> Int64Array:
        """The tokens to predict as row << 12 | position, ascending."""
        hashed = extend_hash(row_keys[found.row], found.position)
        if self.config.whole_words:
            return self._choose_words(ids, found, hashed)
        weights = None if self._weights is None else self._weights[ids[found.flat]]
        packed = np.sort(_packed(found.segment, _keys(hashed, weights), found.position))
        rank = np.arange(len(packed)) - np.repeat(np.cumsum(found.sizes) - found.sizes, found.sizes)
        return _ascending(packed[rank < np.repeat(found.wanted, found.sizes)])

    def _choose_words(self, ids: NDArray[np.uint16], found: _Candidates, hashed: UInt64Array) -> Int64Array:
        begins = ~self.vocabulary.is_continuation[ids[found.flat]]
        begins[:1] = True
        begins[1:] |= (np.diff(found.flat) > 1) | (np.diff(found.segment) > 0)
        first = np.flatnonzero(begins)
        tokens = np.diff(np.append(first, len(begins)))
        weights = None
        if self._weights is not None and len(first):
            weights = np.maximum.reduceat(self._weights[ids[found.flat]], first)
        segment = found.segment[first]
        packed = _packed(segment, _keys(hashed[first], weights), found.position[first])
        order = np.argsort(packed)
        words = np.bincount(segment, minlength=len(found.sizes))
        taken = first[order[_fitting(tokens[order], words, found.wanted)]]
        lengths = tokens[np.searchsorted(first, taken)]
        pieces = np.repeat(taken - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        return np.sort(found.row[pieces] << _POSITION_BITS | found.position[pieces])

    def _seen(self, labels: NDArray[np.uint16], hashed: UInt64Array) -> NDArray[np.uint16]:
        """What the model sees in the place of each predicted token."""
        action = uniform(extend_hash(hashed, _ACTION))
        masked = action < self.config.mask_share
        replaced = ~masked & (action < self.config.mask_share + self.config.random_share)
        seen = labels.copy()
        seen[masked] = self.vocabulary.mask
        keys = extend_hash(hashed[replaced], _TOKEN)
        seen[replaced] = _other_token(labels[replaced], keys, self.vocabulary.replacement_ids)
        return seen


def _chunks(rows: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(0, rows, _CHUNK_ROWS), rows])) if rows else []


def _keys(hashed: UInt64Array, weights: NDArray[np.float64] | None) -> UInt64Array:
    """Keys of 35 bits; the tokens of a segment with the smallest are a draw without replacement.

    With weights they are the exponential keys -log(u) / weight (Efraimidis and Spirakis 2006): the highest bits of a
    positive float are in its order.
    """
    if weights is None:
        return hashed >> np.uint64(64 - _KEY_BITS)
    exponential: NDArray[np.float64] = -np.log1p(-uniform(hashed)) / weights
    return np.asarray(exponential.view(np.uint64) >> np.uint64(64 - _KEY_BITS))


def _packed(segment: Int64Array, keys: UInt64Array, position: Int64Array) -> UInt64Array:
    high = segment.astype(np.uint64) << np.uint64(_KEY_BITS + _POSITION_BITS)
    return np.asarray(high | keys << np.uint64(_POSITION_BITS) | position.astype(np.uint64), dtype=np.uint64)


def _ascending(packed: UInt64Array) -> Int64Array:
    """Packed tokens as row << 12 | position, ascending."""
    row = packed >> np.uint64(_KEY_BITS + _POSITION_BITS + 1)
    position = packed & np.uint64((1 << _POSITION_BITS) - 1)
    return np.sort((row << np.uint64(_POSITION_BITS) | position).astype(np.int64))


def _fitting(tokens: Int64Array, words: Int64Array, wanted: Int64Array) -> NDArray[np.bool_]:
    """Which words are taken: those of each segment in order, each that fits what is left of the wanted tokens.

    Args:
        tokens: of each word; the words of a segment follow each other.
        words: of each segment.
        wanted: tokens of each segment.
    """
    taken = np.zeros(len(tokens), dtype=bool)
    starts, left = np.cumsum(words) - words, wanted.copy()
    active, rank = np.flatnonzero((left > 0) & (words > 0)), 0
    while len(active):
        word = starts[active] + rank
        fits = tokens[word] <= left[active]
        taken[word[fits]] = True
        left[active] -= np.where(fits, tokens[word], 0)
        rank += 1
        active = active[(left[active] > 0) & (words[active] > rank)]
    return taken


def _other_token(
    original: NDArray[np.uint16], keys: UInt64Array, replacement_ids: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """A token of `drawable` other than the original, uniformly: the place of the original is skipped."""
    place = np.searchsorted(replacement_ids, original)
    is_drawable = replacement_ids[np.minimum(place, len(replacement_ids) - 1)] == original
    choices = (len(replacement_ids) - is_drawable).astype(np.uint64)
    index = (keys % choices).astype(np.int64)
    return replacement_ids[index + (is_drawable & (index >= place))]
