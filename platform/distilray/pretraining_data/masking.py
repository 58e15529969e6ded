"""Masking as a pure function of (seed, epoch, example id), independent of workers, batches and order.

Follows the model card: round(15%) of the ordinary tokens of each segment are predicted. The model sees `[MASK]` for 80%
of them, a random other token for 10% and the token itself for 10%, drawn independently for each token.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from distilray.config.pretraining_data import MaskingConfig
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.runtime.seeding import UInt64Array, extend_hash, hash_integers, uniform

_ACTION, _TOKEN = range(2)  # random streams of a predicted token
# Sort keys pack (segment, random key, position in the row) into one 64-bit integer.
_POSITION_BITS, _KEY_BITS = 12, 35
# Rows masked at once. Their arrays fit into the cache of a core, and their segment numbers into the remaining 17 bits.
_CHUNK_ROWS = 256

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class MaskedExamples:
    """Masked examples as flat arrays.

    Attributes:
        input_ids: (tokens,) concatenated rows as the model sees them.
        mask_offsets: (rows + 1,) start of each row in the two arrays below.
        mask_positions: (masked,) positions of the tokens to predict within their rows, ascending.
        mask_labels: (masked,) original ids of these tokens.
    """

    input_ids: NDArray[np.uint16]
    mask_offsets: Int64Array
    mask_positions: NDArray[np.uint16]
    mask_labels: NDArray[np.uint16]


@dataclass(frozen=True)
class _Candidates:
    """Ordinary tokens of a chunk of rows, the candidates for masking.

    Attributes:
        flat: (tokens,) indices into the ids.
        row, position, segment: (tokens,) row, position within the row, and segment: 2 x row for A, 2 x row + 1 for B.
        sizes: (2 x rows,) number of candidates in each segment.
        wanted: (2 x rows,) number of tokens to predict in each segment.
    """

    flat: Int64Array
    row: Int64Array
    position: Int64Array
    segment: Int64Array
    sizes: Int64Array
    wanted: Int64Array


@dataclass(frozen=True)
class Masker:
    """Selects the tokens to predict and replaces them.

    With `config.rare_token_exponent` e above 0, tokens are drawn without replacement with weight count ** -e, like
    `mlm_smoothing` in the original code. With `config.whole_words`, the words of a segment are visited in random order
    and selected if all their tokens still fit. A segment never has more masks than without the option, but has fewer if
    no remaining word fits. The weight of a word is that of its rarest piece; a mean would hide rare pieces.

    Attributes:
        seed: seed of the recipe.
        token_counts: (vocabulary size,) occurrences of each id in the training documents; required if
            `config.rare_token_exponent` is above 0.
    """

    vocabulary: Vocabulary
    config: MaskingConfig
    seed: int
    token_counts: Int64Array | None = None

    def __post_init__(self) -> None:
        if self.config.rare_token_exponent:
            assert self.token_counts is not None, "token_counts are required for token weights"
            assert len(self.token_counts) == self.vocabulary.size, "token_counts must have one entry per id"

    def mask(
        self,
        ids: NDArray[np.uint16],
        *,
        offsets: Int64Array,
        segment_b_start: NDArray[np.integer],
        example_ids: Int64Array,
        epochs: Int64Array | int = 0,
    ) -> MaskedExamples:
        """Mask a batch of examples.

        Args:
            ids: (tokens,) concatenated rows of at most 4,096 tokens each.
            offsets: (rows + 1,) start of each row in `ids`.
            segment_b_start: (rows,) position of the first token of segment B within its row.
            example_ids: (rows,) unique ids of the examples.
            epochs: (rows,) or a scalar. Masks differ between epochs; static masks are those of epoch 0.
        """
        keys = hash_integers(self.seed, np.broadcast_to(epochs, len(example_ids)), example_ids)
        seen = ids.copy()
        positions, labels, counts = [np.empty(0, np.uint16)], [np.empty(0, np.uint16)], [np.zeros(1, np.int64)]
        for start, stop in _chunks(len(example_ids)):
            candidates = self._candidates(ids, offsets[start : stop + 1], segment_b_start[start:stop])
            chosen = self._choose(ids, candidates, keys[start:stop])
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
        """Return the number of masks that `mask` draws in each row, (rows,), for the same arguments."""
        if self.config.whole_words:
            masked = self.mask(
                ids, offsets=offsets, segment_b_start=segment_b_start, example_ids=example_ids, epochs=epochs
            )
            return np.diff(masked.mask_offsets)
        wanted = [np.zeros(0, np.int64)]
        for start, stop in _chunks(len(example_ids)):
            candidates = self._candidates(ids, offsets[start : stop + 1], segment_b_start[start:stop])
            wanted.append(candidates.wanted.reshape(-1, 2).sum(axis=1))
        return np.concatenate(wanted)

    @cached_property
    def _is_ordinary(self) -> NDArray[np.bool_]:
        is_ordinary = np.ones(2**16, dtype=bool)
        is_ordinary[list(self.vocabulary.special)] = False
        return is_ordinary

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

    def _choose(self, ids: NDArray[np.uint16], candidates: _Candidates, row_keys: UInt64Array) -> Int64Array:
        """Return the tokens to predict as row << 12 | position, ascending."""
        hashed = extend_hash(row_keys[candidates.row], candidates.position)
        if self.config.whole_words:
            return self._choose_words(ids, candidates, hashed)
        weights = None if self._weights is None else self._weights[ids[candidates.flat]]
        packed = np.sort(_pack(candidates.segment, _sort_keys(hashed, weights), candidates.position))
        sizes = candidates.sizes
        rank = np.arange(len(packed)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return _unpack_sorted(packed[rank < np.repeat(candidates.wanted, sizes)])

    def _choose_words(self, ids: NDArray[np.uint16], candidates: _Candidates, hashed: UInt64Array) -> Int64Array:
        is_word_start = ~self.vocabulary.is_continuation[ids[candidates.flat]]
        is_word_start[:1] = True
        is_word_start[1:] |= (np.diff(candidates.flat) > 1) | (np.diff(candidates.segment) > 0)
        first = np.flatnonzero(is_word_start)
        tokens = np.diff(np.append(first, len(is_word_start)))
        weights = None
        if self._weights is not None and len(first):
            weights = np.maximum.reduceat(self._weights[ids[candidates.flat]], first)
        segment = candidates.segment[first]
        packed = _pack(segment, _sort_keys(hashed[first], weights), candidates.position[first])
        order = np.argsort(packed)
        words = np.bincount(segment, minlength=len(candidates.sizes))
        chosen = first[order[_select_fitting(tokens[order], words, candidates.wanted)]]
        lengths = tokens[np.searchsorted(first, chosen)]
        pieces = np.repeat(chosen - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        return np.sort(candidates.row[pieces] << _POSITION_BITS | candidates.position[pieces])

    def _seen(self, labels: NDArray[np.uint16], hashed: UInt64Array) -> NDArray[np.uint16]:
        """Return the token that the model sees in place of each label."""
        action = uniform(extend_hash(hashed, _ACTION))
        masked = action < self.config.mask_share
        replaced = ~masked & (action < self.config.mask_share + self.config.random_share)
        seen = labels.copy()
        seen[masked] = self.vocabulary.mask
        keys = extend_hash(hashed[replaced], _TOKEN)
        seen[replaced] = _draw_other(labels[replaced], keys, self.vocabulary.replacement_ids)
        return seen


def _chunks(rows: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(0, rows, _CHUNK_ROWS), rows])) if rows else []


def _sort_keys(hashed: UInt64Array, weights: NDArray[np.float64] | None) -> UInt64Array:
    """Return 35-bit keys; the tokens with the smallest keys of a segment are a sample without replacement.

    With weights they are the exponential keys -log(u) / weight (Efraimidis and Spirakis 2006). Positive floats sort
    like their highest bits.
    """
    if weights is None:
        return hashed >> np.uint64(64 - _KEY_BITS)
    exponential: NDArray[np.float64] = -np.log1p(-uniform(hashed)) / weights
    return np.asarray(exponential.view(np.uint64) >> np.uint64(64 - _KEY_BITS))


def _pack(segment: Int64Array, keys: UInt64Array, position: Int64Array) -> UInt64Array:
    high = segment.astype(np.uint64) << np.uint64(_KEY_BITS + _POSITION_BITS)
    return np.asarray(high | keys << np.uint64(_POSITION_BITS) | position.astype(np.uint64), dtype=np.uint64)


def _unpack_sorted(packed: UInt64Array) -> Int64Array:
    """Return packed tokens as row << 12 | position, ascending."""
    row = packed >> np.uint64(_KEY_BITS + _POSITION_BITS + 1)
    position = packed & np.uint64((1 << _POSITION_BITS) - 1)
    return np.sort((row << np.uint64(_POSITION_BITS) | position).astype(np.int64))


def _select_fitting(tokens: Int64Array, words: Int64Array, wanted: Int64Array) -> NDArray[np.bool_]:
    """Select words in order, in each segment, skipping those longer than the number of tokens still wanted.

    Args:
        tokens: (words,) length of each word; the words of a segment are contiguous.
        words: (segments,) number of words of each segment.
        wanted: (segments,) number of tokens to select in each segment.

    Returns:
        (words,) True for selected words.
    """
    selected = np.zeros(len(tokens), dtype=bool)
    starts, left = np.cumsum(words) - words, wanted.copy()
    active, rank = np.flatnonzero((left > 0) & (words > 0)), 0
    while len(active):
        word = starts[active] + rank
        fits = tokens[word] <= left[active]
        selected[word[fits]] = True
        left[active] -= np.where(fits, tokens[word], 0)
        rank += 1
        active = active[(left[active] > 0) & (words[active] > rank)]
    return selected


def _draw_other(
    original: NDArray[np.uint16], keys: UInt64Array, replacement_ids: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """Draw uniformly from `replacement_ids`, excluding the original by skipping its index."""
    original_index = np.searchsorted(replacement_ids, original)
    is_candidate = replacement_ids[np.minimum(original_index, len(replacement_ids) - 1)] == original
    choices = (len(replacement_ids) - is_candidate).astype(np.uint64)
    index = (keys % choices).astype(np.int64)
    return replacement_ids[index + (is_candidate & (index >= original_index))]
