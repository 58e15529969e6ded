"""What the trained model is worth on every held-out example, while it is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distilray.distillation.feed import counts_of
from distilray.distillation.objective.step import DistillationStep, TensorBatch
from distilray.pretraining_data.batches import heldout_batches
from distilray.pretraining_data.shards import ShardSet


@dataclass(frozen=True)
class HeldoutScores:
    """The loss and its terms, hit@1 and the agreement with the teacher, over the whole held-out split.

    Attributes:
        reduce: sums values over all workers.
        moved: called after each batch.
    """

    shards: ShardSet
    rank: int
    num_workers: int
    batch_size: int
    pad_id: int
    device: torch.device
    reduce: Callable[[list[float]], list[float]]
    moved: Callable[[], None]

    def score(self, step: DistillationStep) -> Mapping[str, float]:
        """`loss` and its unweighted terms as in training; `hit@1`, and `agreement` with a teacher, at the masks."""
        rows = np.arange(len(self.shards))
        masked = self.shards.mask_counts(rows, np.zeros_like(rows))
        counts = counts_of(self.shards.lengths(rows), masked)
        batches = heldout_batches(
            self.shards, batch_size=self.batch_size, pad_id=self.pad_id, rank=self.rank, num_workers=self.num_workers
        )
        # A worker without a batch must name the same sums as the others.
        sums = dict.fromkeys(step.score_names, 0.0)
        was_training = step.model.training
        step.model.eval()
        for batch in batches:
            loss, terms, hits = step.score(TensorBatch.of(batch).to(self.device), counts)
            for name, value in {"loss": loss, **terms, **hits}.items():
                sums[name] += float(value)
            self.moved()
        step.model.train(was_training)
        names = sorted(sums)
        return dict(zip(names, self.reduce([sums[name] for name in names]), strict=True))
