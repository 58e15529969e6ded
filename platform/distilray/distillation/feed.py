"""The micro-batches of one worker, in the order of the sample plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.distillation.objective import StepCounts, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.pretraining_data.batches import collate, padded_width
from distilray.pretraining_data.sample_plan import PlannedRows, SamplePlan, micro_batches
from distilray.pretraining_data.shards import ShardSet
from distilray.training.meter import StepSize

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class MicroStep:
    """A micro-batch of this worker.

    Attributes:
        counts: what its sums are divided by.
        size: of the whole step.
        rows: of the shards.
    """

    number: int
    is_last: bool
    batch: TensorBatch
    counts: StepCounts
    size: StepSize
    rows: Rows


@dataclass(frozen=True)
class Feed:
    """Makes the micro-steps of one of several workers.

    Attributes:
        targets: what a cache holds of the teacher; None where it runs, or where there is none.
        reduction: "global" divides by the counts of the whole step, so that the terms of all micro-batches add up to
            its means; "original" by those of the micro-batch times the number of all micro-batches, so that they add
            up to the mean of their means.
    """

    shards: ShardSet
    plan: SamplePlan
    rank: int
    num_workers: int
    micro_batch_size: int
    reduction: str
    pad_id: int
    pinned: bool
    targets: TeacherCache | None = None

    def micro_steps(self, start: int, stop: int) -> Iterator[MicroStep]:
        """Those of the optimiser steps [start, stop)."""
        fetched: Sequence[int] | None = None
        for step in range(start, stop):
            planned = self.plan.step_rows(step)
            if (ahead := self.plan.shards_ahead(step)) != fetched:
                self.shards.fetch(ahead)
                if self.targets is not None:
                    self.targets.fetch(ahead)
                fetched = ahead
            yield from self._of_step(planned)

    def _of_step(self, planned: PlannedRows) -> Iterator[MicroStep]:
        lengths = self.shards.lengths(planned.rows)
        masked = self.shards.mask_counts(planned.rows, planned.epochs)
        parts = micro_batches(lengths, num_workers=self.num_workers, micro_batch_size=self.micro_batch_size)
        padded_tokens = sum(len(places) * padded_width(int(lengths[places].max())) for places in parts)
        size = StepSize(int(lengths.sum()), int(masked.sum()), int(np.square(lengths).sum()), padded_tokens)
        own = parts[self.rank :: self.num_workers]
        for number, places in enumerate(own):
            taken = planned.take(places)
            counts = counts_of(lengths, masked)
            if self.reduction == "original":
                counts = counts_of(lengths[places], masked[places], times=len(parts))
            cached = None if self.targets is None else self.targets.of(taken.rows)
            batch = TensorBatch.of(collate(self.shards, taken, pad_id=self.pad_id), cached, pinned=self.pinned)
            yield MicroStep(number, number == len(own) - 1, batch, counts, size, taken.rows)


def counts_of(lengths: NDArray[np.integer], masked: NDArray[np.integer], times: int = 1) -> StepCounts:
    """What the sums over some rows are divided by.

    Args:
        lengths, masked: (rows,) tokens of each, and those to predict.
    """
    return StepCounts(
        tokens=times * int(lengths.sum()),
        masked=times * max(1, int(masked.sum())),
        pairs=times * int(np.square(lengths.astype(np.int64)).sum()),
    )
