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
class PlanState:
    """How far a run has come: whole epochs, and examples of the one that has begun."""

    epoch: int
    consumed: int


@dataclass(frozen=True)
class PlannedRows:
    """Rows of the stream, each with the epoch that it is used in."""

    rows: Rows
    epochs: Rows

    def take(self, places: NDArray[np.int64]) -> "PlannedRows":
        """Those at some places."""
        return PlannedRows(self.rows[places], self.epochs[places])


@dataclass(frozen=True)
class SamplePlan:
    """Which rows each optimiser step uses.

    An epoch permutes the shards, and then the rows inside windows of some shards: only the shards of a window need be
    at hand, and memory grows with the number of shards and the size of a window, not with the rows. Shards hold the
    corpus in random order already.

    Attributes:
        shard_rows: rows of each shard; they are numbered through.
        batch_size: examples of one optimiser step, over all workers and micro-steps.
        window_rows: rows that are mixed with each other, rounded to whole shards.
    """

    shard_rows: tuple[int, ...]
    batch_size: int
    seed: int
    window_rows: int = 1 << 18

    @functools.cached_property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(self.shard_rows)

    def step_rows(self, step: int) -> PlannedRows:
        """(batch_size,) the rows of optimiser step `step`, counted from 0 over all epochs."""
        return self.stream(step * self.batch_size, (step + 1) * self.batch_size)

    def stream(self, start: int, stop: int) -> PlannedRows:
        """The rows at the positions [start, stop) of the endless stream of epochs."""
        rows, epochs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while start < stop:
            epoch, inside = divmod(start, self.rows)
            end = min(inside + stop - start, self.rows)
            rows.append(self._epoch_rows(epoch, inside, end))
            epochs.append(np.full(end - inside, epoch))
            start += end - inside
        return PlannedRows(np.concatenate(rows), np.concatenate(epochs))

    def state(self, step: int) -> PlanState:
        """What is done when `step` steps are."""
        return PlanState(*divmod(step * self.batch_size, self.rows))

    def shards_ahead(self, step: int) -> Sequence[int]:
        """The shards of the window in which a step ends, and of the next one."""
        epoch, inside = divmod((step + 1) * self.batch_size - 1, self.rows)
        windows = _epoch_windows(self, epoch)
        window = _window_at(windows, inside)
        following = windows[window + 1] if window + 1 < len(windows) else _epoch_windows(self, epoch + 1)[0]
        return [*windows[window].shards, *following.shards]

    def _epoch_rows(self, epoch: int, start: int, stop: int) -> Rows:
        windows, parts = _epoch_windows(self, epoch), []
        for number in range(_window_at(windows, start), len(windows)):
            first = windows[number].start
            if first >= stop:
                break
            rows = _window_rows(self, epoch, number)
            parts.append(rows[max(0, start - first) : stop - first])
        return np.concatenate(parts)


@dataclass(frozen=True)
class _Window:
    """Shards that are mixed; `start` is the position of its first row in the epoch."""

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
    shards = np.split(order, first[1:])
    return [_Window(start, tuple(found.tolist())) for start, found in zip(starts[first].tolist(), shards, strict=True)]


@functools.lru_cache(maxsize=4)
def _window_rows(plan: SamplePlan, epoch: int, number: int) -> Rows:
    starts = np.cumsum([0, *plan.shard_rows])
    shards = _epoch_windows(plan, epoch)[number].shards
    rows = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    return generator(plan.seed, epoch, 1 + number).permutation(rows)


def micro_batches(lengths: NDArray[np.integer], *, num_workers: int, micro_batch_size: int) -> Sequence[Rows]:
    """The micro-batches of one optimiser step; worker r takes those numbered r, r + num_workers, ...

    The rows of the step are sorted by length and cut into micro-batches of (nearly) equal size, which are dealt out in
    turn: little padding, similar work on every rank, and the same number of micro-batches on each.

    Args:
        lengths: length of each row of the step.
        micro_batch_size: rows of a micro-batch at most.

    Returns:
        The places in the step of the rows of each micro-batch.
    """
    per_worker = -(-len(lengths) // (num_workers * micro_batch_size))
    return np.array_split(np.argsort(lengths, kind="stable"), per_worker * num_workers)
