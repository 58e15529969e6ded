"""Documents to segments: pairs of A and B, or windows of contiguous text.

The model card's input form is `[CLS] A [SEP] B [SEP]`, B what follows A with probability 0.5, else from another
document. Segments are filled and trimmed in the manner of BERT's data builder (Devlin et al. 2018, appendix A.2). Plans
say where segments lie in the tokens of their document; `encoding.completion` finds those of other documents.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
# An A that fills an example leaves this much for a B of another document: about a sentence.
SHORTEST_RANDOM_B = 32


class PairPlan(NamedTuple):
    """Where A and B lie; B is empty when it comes from another document.

    Attributes:
        start, tokens: the run of the document that holds both segments; it begins with a sentence if both are there.
        a_from, b_from: where the segments begin in the run.
        room: tokens that A and B may have together.
        trimmed: tokens of the two segments that did not fit.
        reused: tokens that an earlier pair has taken too.
        is_alone: the document has one sentence only, so that B is random for want of a next one.
    """

    start: int
    tokens: int
    a_from: int
    a_tokens: int
    b_from: int
    b_tokens: int
    room: int
    trimmed: int = 0
    reused: int = 0
    is_random_next: bool = False
    is_alone: bool = False


def plan_pairs(
    ends: Sequence[int], rng: Random, *, max_tokens: int, short_seq_prob: float, random_next_probability: float
) -> Iterator[PairPlan]:
    """The pairs of one document; the same for the same document and generator state.

    Args:
        ends: where each sentence ends in the tokens of the document; no sentence is empty.
        max_tokens: tokens of A and B together at most.
        short_seq_prob: share of pairs that aim at a random shorter length.
        random_next_probability: share of pairs whose B comes from another document.
    """
    sentences, start, taken = len(ends), 0, 0
    while start < sentences:
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        first = ends[start - 1] if start else 0
        # The shortest run of sentences with at least `target` tokens, or the rest of the document.
        end = min(bisect_left(ends, first + target, start), sentences - 1) + 1
        is_random = rng.random() < random_next_probability
        if end - start == 1 and not is_random:
            if end < sentences:
                end += 1  # a consecutive pair needs two sentences; the pair is trimmed afterwards
            elif start > 0:
                start -= 1  # the last sentence alone: take the one before it once more
                first = ends[start - 1] if start else 0
            else:
                is_random = True  # a document of one sentence has no consecutive pair
        middle = start + 1 + (int(rng.random() * (end - start - 1)) if end - start > 1 else 0)
        a_tokens = ends[middle - 1] - first
        reused = max(0, taken - first)
        if is_random:
            # The sentences that B would have been are used next time.
            kept = min(a_tokens, target - min(SHORTEST_RANDOM_B, target // 2))
            cut = a_tokens - kept
            yield PairPlan(first + _front(cut, rng), kept, 0, kept, kept, 0, target, cut, reused, True, sentences == 1)
            start = middle
        else:
            b_tokens = ends[end - 1] - ends[middle - 1]
            kept_a, kept_b = _trimmed(a_tokens, b_tokens, target)
            cut_a, cut_b = a_tokens - kept_a, b_tokens - kept_b
            a_from, b_from = _front(cut_a, rng), a_tokens + _front(cut_b, rng)
            run, cut = a_tokens + b_tokens, cut_a + cut_b
            yield PairPlan(first, run, a_from, kept_a, b_from, kept_b, target, cut, reused)
            start = end
        taken = ends[start - 1]


def plan_windows(tokens: int, rng: Random, *, max_tokens: int, short_seq_prob: float) -> Iterator[PairPlan]:
    """The tokens of a document in one run after another, each as long as an example may be: a pair with no B.

    The paper's input form; runs end with their document, as RoBERTa found best (Liu et al. 2019, section 4.2).
    """
    start = 0
    while start < tokens:
        target = draw_target(rng, max_tokens=max_tokens, short_seq_prob=short_seq_prob)
        kept = min(target, tokens - start)
        yield PairPlan(start, kept, 0, kept, kept, 0, target)
        start += target


def draw_target(rng: Random, *, max_tokens: int, short_seq_prob: float) -> int:
    """How many tokens an example aims at: all that fit, or for some any number from 2 on."""
    if rng.random() < short_seq_prob:
        return 2 + int(rng.random() * (max_tokens - 1))
    return max_tokens


def _trimmed(a_tokens: int, b_tokens: int, target: int) -> tuple[int, int]:
    """The lengths that are left when the longer of the two is cut, token by token, until both fit `target`."""
    excess = max(0, a_tokens + b_tokens - target)
    level = min(excess, abs(a_tokens - b_tokens))  # first the longer one down to the shorter ...
    if a_tokens > b_tokens:
        a_tokens -= level
    else:
        b_tokens -= level
    rest = excess - level  # ... then both in turn
    return a_tokens - rest // 2, b_tokens - (rest - rest // 2)


def _front(cut: int, rng: Random) -> int:
    """How many of the tokens to cut go at the front: each one does with probability 1/2."""
    return rng.getrandbits(cut).bit_count() if cut else 0
