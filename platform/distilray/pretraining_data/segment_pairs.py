"""Sentences to segment pairs: A, and as B what follows A or a segment of another document.

The model card's input form: `[CLS] A [SEP] B [SEP]`, B consecutive with probability 0.5, else drawn from the corpus.
Segments are filled and trimmed in the manner of BERT's data builder (Devlin et al. 2018, appendix A.2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint16]
Sentences = Sequence[Ids]
SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]


@dataclass(frozen=True)
class Document:
    """A document as token ids, one array per sentence; `row` is its number in the corpus."""

    row: int
    sentences: Sentences


@dataclass(frozen=True)
class SegmentPair:
    """Two segments; `trimmed` counts the tokens that did not fit."""

    a: Ids
    b: Ids
    document_a: int
    document_b: int
    is_random_next: bool
    trimmed: int


class SegmentPairBuilder:
    """Cuts documents into segment pairs.

    Args:
        max_seq_length: tokens of a pair at most, special tokens included.
        short_seq_prob: share of pairs that aim at a random shorter length.
        random_next_probability: share of pairs whose B comes from another document.
        pool: documents that random segments are drawn from.
    """

    def __init__(
        self, *, max_seq_length: int, short_seq_prob: float, random_next_probability: float, pool: Sequence[Document]
    ) -> None:
        self._max_tokens = max_seq_length - SPECIAL_TOKENS
        self._short_seq_prob = short_seq_prob
        self._random_next_probability = random_next_probability
        self._pool = pool

    def pairs(self, document: Document, rng: np.random.Generator) -> Iterator[SegmentPair]:
        """The pairs of one document; the same for the same document and generator state."""
        sentences = document.sentences
        start = 0
        while start < len(sentences):
            target = self._draw_target(rng)
            end = _fill(sentences, start, target)
            is_random = bool(rng.random() < self._random_next_probability)
            if end - start == 1 and not is_random:
                if end < len(sentences):
                    end += 1  # a consecutive pair needs two sentences; the pair is trimmed afterwards
                elif start > 0:
                    start -= 1  # the last sentence alone: take the one before it once more
                else:
                    is_random = True  # a document of one sentence has no consecutive pair
            end_of_a = start + 1 if end - start == 1 else start + int(rng.integers(1, end - start))
            a = np.concatenate(sentences[start:end_of_a])
            if is_random:
                other = self._draw_other_document(document, rng)
                b = self._draw_segment(other, max(1, target - len(a)), rng)
                document_b, next_start = other.row, end_of_a  # the sentences that B left unused are used next time
            else:
                b = np.concatenate(sentences[end_of_a:end])
                document_b, next_start = document.row, end
            trimmed_a, trimmed_b = _trim(a, b, target, rng)
            trimmed = len(a) + len(b) - len(trimmed_a) - len(trimmed_b)
            yield SegmentPair(trimmed_a, trimmed_b, document.row, document_b, is_random, trimmed)
            start = next_start

    def _draw_target(self, rng: np.random.Generator) -> int:
        if rng.random() < self._short_seq_prob:
            return int(rng.integers(2, self._max_tokens + 1))
        return self._max_tokens

    def _draw_other_document(self, document: Document, rng: np.random.Generator) -> Document:
        index = int(rng.integers(len(self._pool)))
        if self._pool[index].row == document.row:
            # Another one, uniformly over the rest: a document stands in the pool once at most.
            index = (index + int(rng.integers(1, len(self._pool)))) % len(self._pool)
        return self._pool[index]

    @staticmethod
    def _draw_segment(document: Document, target: int, rng: np.random.Generator) -> Ids:
        start = int(rng.integers(len(document.sentences)))
        return np.concatenate(document.sentences[start : _fill(document.sentences, start, target)])


def _fill(sentences: Sentences, start: int, target: int) -> int:
    """The end of the shortest run of sentences from `start` with at least `target` tokens, or of the document."""
    tokens = 0
    for index in range(start, len(sentences)):
        tokens += len(sentences[index])
        if tokens >= target:
            return index + 1
    return len(sentences)


def _trim(a: Ids, b: Ids, target: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Cuts the longer side, token by token, until both fit `target`; each cut is at the front or the back, 1 : 1."""
    excess = max(0, len(a) + len(b) - target)
    keep_a, keep_b = len(a), len(b)
    level = min(excess, abs(keep_a - keep_b))  # first the longer side down to the shorter one ...
    keep_a, keep_b = (keep_a - level, keep_b) if keep_a > keep_b else (keep_a, keep_b - level)
    rest = excess - level  # ... then both in turn
    keep_a, keep_b = keep_a - rest // 2, keep_b - (rest - rest // 2)
    return _cut(a, keep_a, rng), _cut(b, keep_b, rng)


def _cut(ids: Ids, keep: int, rng: np.random.Generator) -> Ids:
    excess = len(ids) - keep
    front = int(rng.binomial(excess, 0.5)) if excess else 0
    return ids[front : front + keep]
