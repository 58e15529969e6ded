"""Which texts go through the model together, and the arrays that they make."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def length_sorted_batches(lengths: Sequence[int], *, max_rows: int, max_tokens: int) -> list[list[int]]:
    """Indices of the texts, in batches of like length, the longest first.

    Args:
        lengths: tokens of each text.
        max_rows: texts in a batch.
        max_tokens: tokens in a batch, padding included; a text longer than that is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    rows = 0
    for index in order:
        if not batches or len(batches[-1]) >= rows:
            batches.append([])
            rows = max(1, min(max_rows, max_tokens // max(lengths[index], 1)))
        batches[-1].append(index)
    return batches


def padded(
    rows: Sequence[Sequence[int] | NDArray[np.int64]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`input_ids` and `attention_mask`, (texts, length of the longest) each, of texts of different lengths."""
    input_ids = np.full((len(rows), max(map(len, rows))), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for place, row in enumerate(rows):
        input_ids[place, : len(row)] = row
        attention_mask[place, : len(row)] = 1
    return input_ids, attention_mask
