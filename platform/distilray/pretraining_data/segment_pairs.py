"""Documents to segments: pairs of A and B, or windows of contiguous text.

The model card's input form is `[CLS] A [SEP] B [SEP]`; B follows A with probability 0.5, otherwise it comes from
another document. Pairs are planned as in BERT's data builder (Devlin et al. 2018, appendix A.2), with one difference:
both kinds are planned as whole consecutive sentences, and `encoding.completion` replaces the B of a random pair by one
of the same length before it trims both kinds alike. So lengths and cuts of segments do not depend on the kind of pair.
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
    """Position of a pair in the tokens of its document, as whole sentences; B begins where A ends.

    Attributes:
        start: first token of A.
        b_tokens: length of the B that follows A; 0 for a window, and for the only sentence of a document.
        room: maximum number of tokens of A and B together.
        reused: tokens that an earlier pair has used, too.
        is_random_next: B must be replaced by one of another document; the next pair begins with the planned B.
        is_alone: the document has one sentence only, so that B must be random.
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
    """Plans the pairs of one document; the same for the same document and generator state.

    The kind of a pair is drawn independently of its segments. As no consecutive pair can, no pair begins with the last
    sentence of a document: it is left out if it remains after a random pair, also on the second attempt.

    Args:
        ends: end of each sentence in the tokens of the document; no sentence is empty.
        max_tokens: maximum number of tokens of A and B together.
        short_seq_prob: share of pairs that aim at a random shorter length.
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
            start, is_last = start - 1, True  # a pair needs two sentences: use the one before again
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        first = ends[start - 1] if start else 0
        # The shortest run of two or more sentences with at least `target` tokens, or the rest of the document.
        end = min(max(bisect_left(ends, first + target, start), start + 1), sentences - 1) + 1
        middle = start + 1 + int(rng.random() * (end - start - 1))
        is_random = rng.random() < random_next_probability
        a_tokens, b_tokens = ends[middle - 1] - first, ends[end - 1] - ends[middle - 1]
        yield PairPlan(first, a_tokens, b_tokens, target, max(0, used - first), is_random)
        start = middle if is_random else end
        used = ends[start - 1]


def plan_windows(tokens: int, rng: Random, *, max_tokens: int, short_seq_prob: float) -> Iterator[PairPlan]:
    """Cuts the tokens of a document into windows of the maximum length of an example: pairs without a B.

    The paper's input form; windows end with their document, as RoBERTa found best (Liu et al. 2019, section 4.2).
    """
    start = 0
    while start < tokens:
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        yield PairPlan(start, min(target, tokens - start), 0, target)
        start += target


def draw_target(rng: Random, *, max_tokens: int, short_seq_prob: float) -> int:
    """Number of tokens that an example aims at: the maximum, or for some a uniform number from 2 on."""
    if rng.random() < short_seq_prob:
        return 2 + int(rng.random() * (max_tokens - 1))
    return max_tokens


def trimmed_lengths(a_tokens: Int64Array, b_tokens: Int64Array, room: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Lengths of A and B after the longer of the two has lost token by token until both fit `room`; all are (rows,)."""
    excess = np.maximum(a_tokens + b_tokens - room, 0)
    level = np.minimum(excess, np.abs(a_tokens - b_tokens))  # first the longer one down to the shorter ...
    rest = excess - level  # ... then both in turn
    cut_a = np.where(a_tokens > b_tokens, level, 0) + rest // 2
    return a_tokens - cut_a, b_tokens - (excess - cut_a)


def front_cuts(hashed: UInt64Array, cuts: Int64Array) -> Int64Array:
    """Number of tokens to remove at the front of each segment: each of its `cuts` tokens with probability 1/2.

    Args:
        hashed: (rows,) a random number for each segment.
        cuts: (rows,) tokens to remove at both ends together.
    """
    words = -(-cuts // 64)
    row = np.repeat(np.arange(len(cuts)), words)
    word = np.arange(len(row)) - np.repeat(np.cumsum(words) - words, words)
    bits = extend_hash(hashed[row], word) >> np.maximum(64 - (cuts[row] - 64 * word), 0).astype(np.uint64)
    return np.bincount(row, weights=np.bitwise_count(bits), minlength=len(cuts)).astype(np.int64)
