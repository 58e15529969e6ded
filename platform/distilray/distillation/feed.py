"""Micro-batches of one worker, in the order of the sample plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.distillation.objective import LossDivisors, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.pretraining_data.batches import collate, padded_width
from distilray.pretraining_data.sample_plan import PlannedRows, SamplePlan, micro_batches
from distilray.pretraining_data.shards import ShardSet
from distilray.training.meter import StepSize

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class MicroStep:
    """One micro-batch of this worker.

    Attributes:
        number: index among the worker's micro-batches of the same optimizer step.
        divisors: divisors of its loss sums.
        size: size of the whole optimizer step, over all workers.
        rows: row numbers in the shards.
    """

    number: int
    is_last: bool
    batch: TensorBatch
    divisors: LossDivisors
    size: StepSize
    rows: Rows


@dataclass(frozen=True)
class Feed:
    """Produces the micro-steps of one worker.

    Attributes:
        targets: cached outputs of the teacher; None if the teacher runs, or if there is no teacher.
        reduction: "global" divides by the counts of the whole optimizer step, so that the terms of all micro-batches
            add up to the means over the step. "original" divides by the counts of the micro-batch times the number of
            micro-batches, so that they add up to the mean of the micro-batch means.
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
    micro_batch_tokens: int | None = None

    def micro_steps(self, start: int, stop: int) -> Iterator[MicroStep]:
        """Yield the micro-steps of the optimizer steps [start, stop)."""
        fetched: Sequence[int] | None = None
        for step in range(start, stop):
            planned = self.plan.step_rows(step)
            if (ahead := self.plan.shards_ahead(step)) != fetched:
                self.shards.start_downloads(ahead)
                if self.targets is not None:
                    self.targets.start_downloads(ahead)
                fetched = ahead
            yield from self._micro_steps_of(planned)

    def _micro_steps_of(self, planned: PlannedRows) -> Iterator[MicroStep]:
        lengths = self.shards.lengths(planned.rows)
        masked = self.shards.mask_counts(planned.rows, planned.epochs)
        widths = padded_width(lengths)
        batches = micro_batches(
            widths,
            num_workers=self.num_workers,
            micro_batch_size=self.micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
        )
        padded_tokens = sum(len(indices) * int(widths[indices].max()) for indices in batches)
        size = StepSize(int(lengths.sum()), int(masked.sum()), int(np.square(lengths).sum()), padded_tokens)
        own_batches = batches[self.rank :: self.num_workers]
        for number, indices in enumerate(own_batches):
            own_rows = planned.take(indices)
            divisors = loss_divisors(lengths, masked)
            if self.reduction == "original":
                divisors = loss_divisors(lengths[indices], masked[indices], factor=len(batches))
            cached = None if self.targets is None else self.targets.of(own_rows.rows)
            batch = TensorBatch.of(collate(self.shards, own_rows, pad_id=self.pad_id), cached, pinned=self.pinned)
            yield MicroStep(number, number == len(own_batches) - 1, batch, divisors, size, own_rows.rows)


def loss_divisors(lengths: NDArray[np.integer], masked: NDArray[np.integer], factor: int = 1) -> LossDivisors:
    """Return the divisors of the loss sums over some rows.

    Args:
        lengths: (rows,) tokens of each row.
        masked: (rows,) masked tokens of each row.
        factor: multiplies every divisor.
    """
    return LossDivisors(
        tokens=factor * int(lengths.sum()),
        masked=factor * max(1, int(masked.sum())),
        pairs=factor * int(np.square(lengths.astype(np.int64)).sum()),
    )
