"""Segment planning: splits documents into pairs of A and B, or windows of contiguous text.

The model card's input is `[CLS] A [SEP] B [SEP]`. B follows A with probability 0.5 and comes from another document
otherwise. Pairs are planned as in BERT's data builder (Devlin et al. 2018, appendix A.2), with one difference: both
kinds are planned as consecutive whole sentences. `examples` then replaces the B of a random pair by one of the same
length and trims both kinds alike, so that segment lengths and cuts do not reveal the kind of a pair.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilray.runtime.seeding import UInt64Array, extend_hash

SPECIAL_TOKENS_PER_PAIR = 3  # [CLS] A [SEP] B [SEP]

Int64Array = NDArray[np.int64]


class PairPlan(NamedTuple):
    """Position of a pair in the tokens of its document, as whole sentences; B starts where A ends.

    Attributes:
        start: first token of A.
        b_tokens: length of the B that follows A; 0 for a window and for a document with a single sentence.
        room: maximum number of tokens of A and B together.
        reused: number of tokens that an earlier pair also uses.
        is_random_next: B will be replaced by one from another document; the next pair starts with the planned B.
        is_single_sentence: the document has a single sentence, so that B must be random.
    """

    start: int
    a_tokens: int
    b_tokens: int
    room: int
    reused: int = 0
    is_random_next: bool = False
    is_single_sentence: bool = False


def plan_pairs(
    ends: Sequence[int], rng: Random, *, max_tokens: int, short_seq_prob: float, random_next_probability: float
) -> Iterator[PairPlan]:
    """Yield the pairs of one document, a pure function of the document and the state of the generator.

    The kind of a pair is drawn independently of its segments. A consecutive pair cannot start with the last sentence of
    a document, so a random one does not either: if the last sentence remains after a random pair, it is paired with the
    sentence before it once, and dropped if it remains again.

    Args:
        ends: end of each sentence in the tokens of the document; sentences are not empty.
        max_tokens: maximum number of tokens of A and B together.
        short_seq_prob: share of pairs with a random shorter target length.
        random_next_probability: share of pairs whose B comes from another document.
    """
    sentences, start, used = len(ends), 0, 0
    if sentences == 1:
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        yield PairPlan(0, ends[0], 0, target, is_random_next=True, is_single_sentence=True)
        return
    is_last = False
    while start < sentences and not is_last:
        if start == sentences - 1:
            start, is_last = start - 1, True  # a pair needs two sentences, so reuse the previous one
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        first = ends[start - 1] if start else 0
        # The fewest sentences, at least two, with at least `target` tokens; otherwise the rest of the document.
        end = min(max(bisect_left(ends, first + target, start), start + 1), sentences - 1) + 1
        middle = start + 1 + int(rng.random() * (end - start - 1))
        is_random = rng.random() < random_next_probability
        a_tokens, b_tokens = ends[middle - 1] - first, ends[end - 1] - ends[middle - 1]
        yield PairPlan(first, a_tokens, b_tokens, target, max(0, used - first), is_random)
        start = middle if is_random else end
        used = ends[start - 1]


def plan_windows(tokens: int, rng: Random, *, max_tokens: int, short_seq_prob: float) -> Iterator[PairPlan]:
    """Yield windows of contiguous text, as pairs without a B: the input of the paper.

    Windows do not cross documents, which RoBERTa found to be best (Liu et al. 2019, section 4.2).
    """
    start = 0
    while start < tokens:
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        yield PairPlan(start, min(target, tokens - start), 0, target)
        start += target


def draw_target(rng: Random, *, max_tokens: int, short_seq_prob: float) -> int:
    """Return the target length: the maximum or, with probability `short_seq_prob`, uniform from 2 to the maximum."""
    if rng.random() < short_seq_prob:
        return 2 + int(rng.random() * (max_tokens - 1))
    return max_tokens


def trimmed_lengths(a_tokens: Int64Array, b_tokens: Int64Array, room: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the lengths of A and B after removing tokens from the longer one until they fit `room`, all (rows,)."""
    excess = np.maximum(a_tokens + b_tokens - room, 0)
    difference = np.minimum(excess, np.abs(a_tokens - b_tokens))  # first shorten the longer one until both are equal,
    rest = excess - difference  # then both in turn
    cut_a = np.where(a_tokens > b_tokens, difference, 0) + rest // 2
    return a_tokens - cut_a, b_tokens - (excess - cut_a)


def front_cuts(hashed: UInt64Array, cuts: Int64Array) -> Int64Array:
    """Return the number of tokens to remove at the front of each segment, (rows,): each cut with probability 1/2.

    Args:
        hashed: (rows,) random number of each segment.
        cuts: (rows,) number of tokens to remove from each segment.
    """
    words = -(-cuts // 64)
    row = np.repeat(np.arange(len(cuts)), words)
    word = np.arange(len(row)) - np.repeat(np.cumsum(words) - words, words)
    bits = extend_hash(hashed[row], word) >> np.maximum(64 - (cuts[row] - 64 * word), 0).astype(np.uint64)
    return np.bincount(row, weights=np.bitwise_count(bits), minlength=len(cuts)).astype(np.int64)
