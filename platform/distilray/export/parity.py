"""Whether an exported graph computes what its model computes: all logits, at shapes that it was not traced with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.inference.backends import MaskedLogits
from distilray.runtime.seeding import generator

# Rows, tokens of the longest row, masks. One row, one token, no mask and the full length are what graphs break on.
_SHAPES = ((1, 3, 1), (1, 17, 2), (3, 8, 0), (5, 9, 7), (4, 33, 6), (2, 128, 40), (1, 512, 20))


@dataclass(frozen=True)
class ParityCase:
    """Inputs of one shape; rows end at different lengths, the rest is padding."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    mask_index: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


@dataclass(frozen=True)
class ParityResult:
    """The largest absolute difference of a graph's logits from those of the model at one shape."""

    graph: str
    batch: int
    length: int
    masks: int
    max_difference: float


def parity_cases(*, vocabulary_size: int, max_length: int, seed: int) -> list[ParityCase]:
    """Random inputs of several shapes, as long as the model reads."""
    shapes = dict.fromkeys((rows, min(length, max_length), masks) for rows, length, masks in _SHAPES)
    return [_case(shape, vocabulary_size, generator(seed, number)) for number, shape in enumerate(shapes)]


def _case(shape: tuple[int, int, int], vocabulary_size: int, random: np.random.Generator) -> ParityCase:
    rows, length, masks = shape
    lengths = random.integers((length + 1) // 2, length, size=rows, endpoint=True)
    lengths[0] = length
    columns = np.arange(length)
    is_token = columns < lengths[:, None]
    types = (columns >= lengths[:, None] // 2) & is_token
    places = np.flatnonzero(is_token)
    return ParityCase(
        input_ids=random.integers(0, vocabulary_size, size=(rows, length)),
        attention_mask=is_token.astype(np.int64),
        mask_index=np.sort(random.choice(places, min(masks, len(places)), replace=False)),
        token_type_ids=types.astype(np.int64),
    )


def compare_logits(
    reference: MaskedLogits, exported: MaskedLogits, cases: Sequence[ParityCase], *, graph: str
) -> list[ParityResult]:
    """Compare the logits of two models, case by case; the largest float stands for no number.

    Args:
        graph: name of the exported model.
    """
    return list(_compared(reference, exported, cases, graph))


def _compared(
    reference: MaskedLogits, exported: MaskedLogits, cases: Sequence[ParityCase], graph: str
) -> Iterator[ParityResult]:
    for case in cases:
        inputs = (case.input_ids, case.attention_mask, case.mask_index, case.token_type_ids)
        expected, found = reference.logits_at(*inputs), exported.logits_at(*inputs)
        difference = float(np.finfo(np.float32).max)
        if expected.shape == found.shape and np.isfinite(found).all():
            difference = float(np.abs(expected - found).max(initial=0.0))
        batch, length = case.input_ids.shape
        yield ParityResult(graph, batch, length, len(case.mask_index), difference)
