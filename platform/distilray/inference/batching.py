"""Which texts go through the model together."""

from collections.abc import Sequence


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
