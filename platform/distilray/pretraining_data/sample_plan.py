"""The order of examples: a pure function of (seed, epoch), the same for any number of workers.

Epochs follow each other without a seam: the global stream of examples is epoch 0, then epoch 1, ...; optimiser step s
takes the positions [s x batch_size, (s + 1) x batch_size). So each example is used exactly once per epoch, and none is
dropped.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.runtime.seeding import generator

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class SamplePlan:
    """Which rows each optimiser step uses.

    An epoch permutes blocks of neighbouring rows, and then the rows inside windows of several blocks: reads stay near
    each other, memory grows with the number of blocks, not of rows.

    Attributes:
        rows: number of examples.
        batch_size: examples of one optimiser step, over all workers and micro-steps.
        block_rows: rows that move together in the first permutation.
        window_blocks: blocks whose rows are mixed in the second.
    """

    rows: int
    batch_size: int
    seed: int
    block_rows: int = 1024
    window_blocks: int = 64

    def step_rows(self, step: int) -> Rows:
        """(batch_size,) the rows of optimiser step `step`, counted from 0 over all epochs."""
        return self.stream(step * self.batch_size, (step + 1) * self.batch_size)

    def stream(self, start: int, stop: int) -> Rows:
        """The rows at the positions [start, stop) of the endless stream of epochs."""
        parts = []
        while start < stop:
            epoch, inside = divmod(start, self.rows)
            end = min(inside + stop - start, self.rows)
            parts.append(self._epoch_rows(epoch, inside, end))
            start += end - inside
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _epoch_rows(self, epoch: int, start: int, stop: int) -> Rows:
        order, window_starts = _epoch_order(self, epoch)
        parts = []
        first = int(np.searchsorted(window_starts, start, side="right")) - 1
        for window in range(first, len(window_starts) - 1):
            offset = int(window_starts[window])
            if offset >= stop:
                break
            blocks = order[window * self.window_blocks : (window + 1) * self.window_blocks]
            rows = _window_rows(self, epoch, window, tuple(blocks.tolist()))
            parts.append(rows[max(0, start - offset) : stop - offset])
        return np.concatenate(parts)


@functools.lru_cache(maxsize=2)
def _epoch_order(plan: SamplePlan, epoch: int) -> tuple[Rows, Rows]:
    """The permuted blocks of an epoch, and where each window begins in it (windows + 1)."""
    blocks = -(-plan.rows // plan.block_rows)
    order = generator(plan.seed, epoch).permutation(blocks)
    sizes = np.minimum(plan.block_rows, plan.rows - order * plan.block_rows)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return order, np.append(ends[: -1 : plan.window_blocks], plan.rows)


@functools.lru_cache(maxsize=4)
def _window_rows(plan: SamplePlan, epoch: int, window: int, blocks: tuple[int, ...]) -> Rows:
    rows = [np.arange(b * plan.block_rows, min((b + 1) * plan.block_rows, plan.rows)) for b in blocks]
    return generator(plan.seed, epoch, 1 + window).permutation(np.concatenate(rows))


def micro_batches(
    rows: Rows, lengths: NDArray[np.integer], *, num_workers: int, rank: int, micro_batch_size: int
) -> Sequence[Rows]:
    """The micro-batches of one worker in one optimiser step.

    The rows of the step are sorted by length and cut into micro-batches of (nearly) equal size, which are dealt out in
    turn: little padding, similar work on every rank, and the same number of micro-batches on each.

    Args:
        rows: the rows of the step.
        lengths: length of each of them.
        micro_batch_size: rows of a micro-batch at most.
    """
    per_worker = -(-len(rows) // (num_workers * micro_batch_size))
    ordered = rows[np.argsort(lengths, kind="stable")]
    return np.array_split(ordered, per_worker * num_workers)[rank::num_workers]
