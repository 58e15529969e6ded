"""Order of examples as a pure function of (seed, epoch), independent of the number of workers.

The examples of epoch 0, 1, ... form one endless stream. Optimizer step s uses positions [s x batch_size,
(s + 1) x batch_size), so that batches may span two epochs, every example is used exactly once per epoch and none is
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
class PlanState:
    """Position of a run in the stream: completed epochs, and examples consumed of the current one."""

    epoch: int
    consumed: int


@dataclass(frozen=True)
class PlannedRows:
    """Rows of the stream, each with its epoch."""

    rows: Rows
    epochs: Rows

    def take(self, indices: NDArray[np.int64]) -> "PlannedRows":
        """Return the rows at the given indices."""
        return PlannedRows(self.rows[indices], self.epochs[indices])


@dataclass(frozen=True)
class SamplePlan:
    """Assignment of rows to optimizer steps.

    An epoch permutes the shards, and then the rows within windows of a few shards. Only the shards of one window are
    needed locally, and memory grows with the number of shards and the window size, not with the number of rows. This
    suffices because the shards already contain the corpus in random order.

    Attributes:
        shard_rows: number of rows of each shard; rows are numbered consecutively over all shards.
        batch_size: examples per optimizer step, over all workers and micro-steps.
        window_rows: number of rows that are shuffled together, rounded to whole shards.
    """

    shard_rows: tuple[int, ...]
    batch_size: int
    seed: int
    window_rows: int = 1 << 18

    @functools.cached_property
    def total_rows(self) -> int:
        """Number of rows of all shards."""
        return sum(self.shard_rows)

    def step_rows(self, step: int) -> PlannedRows:
        """Return the rows of optimizer step `step` (from 0, over all epochs), (batch_size,)."""
        return self.stream(step * self.batch_size, (step + 1) * self.batch_size)

    def stream(self, start: int, stop: int) -> PlannedRows:
        """Return the rows at positions [start, stop) of the stream."""
        rows, epochs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while start < stop:
            epoch, offset = divmod(start, self.total_rows)
            end = min(offset + stop - start, self.total_rows)
            rows.append(self._epoch_rows(epoch, offset, end))
            epochs.append(np.full(end - offset, epoch))
            start += end - offset
        return PlannedRows(np.concatenate(rows), np.concatenate(epochs))

    def state(self, step: int) -> PlanState:
        """Return the position in the stream after `step` steps."""
        return PlanState(*divmod(step * self.batch_size, self.total_rows))

    def shards_ahead(self, step: int) -> Sequence[int]:
        """Return the shards of the window in which `step` ends, and of the next window, for downloading ahead."""
        epoch, offset = divmod((step + 1) * self.batch_size - 1, self.total_rows)
        windows = _epoch_windows(self, epoch)
        window = _window_at(windows, offset)
        following = windows[window + 1] if window + 1 < len(windows) else _epoch_windows(self, epoch + 1)[0]
        return [*windows[window].shards, *following.shards]

    def _epoch_rows(self, epoch: int, start: int, stop: int) -> Rows:
        windows, slices = _epoch_windows(self, epoch), []
        for number in range(_window_at(windows, start), len(windows)):
            first = windows[number].start
            if first >= stop:
                break
            rows = _window_rows(self, epoch, number)
            slices.append(rows[max(0, start - first) : stop - first])
        return np.concatenate(slices)


@dataclass(frozen=True)
class _Window:
    """Shards whose rows are shuffled together; `start` is the position of the first row in the epoch."""

    start: int
    shards: tuple[int, ...]


def _window_at(windows: Sequence[_Window], position: int) -> int:
    return int(np.searchsorted([window.start for window in windows], position, side="right")) - 1


@functools.lru_cache(maxsize=4)
def _epoch_windows(plan: SamplePlan, epoch: int) -> Sequence[_Window]:
    order = generator(plan.seed, epoch).permutation(len(plan.shard_rows))
    sizes = np.array(plan.shard_rows)[order]
    starts = np.cumsum(sizes) - sizes
    first = np.flatnonzero(np.diff(starts // plan.window_rows, prepend=-1))
    windows = zip(starts[first].tolist(), np.split(order, first[1:]), strict=True)
    return [_Window(start, tuple(shards.tolist())) for start, shards in windows]


@functools.lru_cache(maxsize=4)
def _window_rows(plan: SamplePlan, epoch: int, number: int) -> Rows:
    starts = np.cumsum([0, *plan.shard_rows])
    shards = _epoch_windows(plan, epoch)[number].shards
    rows = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    return generator(plan.seed, epoch, 1 + number).permutation(rows)


def micro_batches(
    widths: NDArray[np.integer], *, num_workers: int, micro_batch_size: int, micro_batch_tokens: int | None = None
) -> Sequence[Rows]:
    """Return the micro-batches of one optimizer step; worker r processes number r, r + num_workers, ...

    The rows are sorted by width, so that there is little padding. The widest come first: running out of memory fails
    early, and later micro-batches fit into the memory of earlier ones. They are split into rounds, and each round into
    a micro-batch per worker. There are as few rounds as the limits allow, with nearly equally many rows unless a limit
    prevents it. All workers get the same number of micro-batches and a similar amount of work.

    Args:
        widths: (rows,) padded length of each row of the step.
        micro_batch_size: maximum number of rows of a micro-batch.
        micro_batch_tokens: maximum number of tokens of a micro-batch, including padding; None for no limit. It must be
            at least the largest width.

    Returns:
        The indices of the rows of each micro-batch, within the step.
    """
    order = np.argsort(-widths, kind="stable")
    rows = np.full(len(order), micro_batch_size)  # of a micro-batch that starts at each position
    if micro_batch_tokens is not None:
        rows = np.minimum(rows, micro_batch_tokens // widths[order])
    assert rows.min() > 0
    limits = num_workers * rows  # rows of a round
    rounds = start = 0
    while start < len(order):
        start, rounds = start + limits[start], rounds + 1
    batches: list[Rows] = []
    start = 0
    for remaining in range(rounds, 0, -1):
        stop = start + min(limits[start], -((start - len(order)) // remaining))
        batches += np.array_split(order[start:stop], num_workers)
        start = stop
    return batches
