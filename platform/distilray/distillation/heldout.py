"""Evaluation on the held-out split during training."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distilray.distillation.feed import counts_of
from distilray.distillation.objective import DistillationStep, StepCounts, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.pretraining_data.batches import collate, heldout_rows
from distilray.pretraining_data.shards import ShardSet
from distilray.training.loop import Hook, Step


@dataclass(frozen=True)
class HeldoutScores:
    """The loss and its terms, hit@1 and the agreement with the teacher, over the held-out split.

    Attributes:
        reduce: sums values over all workers.
        moved: called after each batch.
        targets: what a cache holds of the teacher; None where it runs, or where there is none.
        limit: the first examples only; shards hold them in random order, so these are a sample.
    """

    shards: ShardSet
    rank: int
    num_workers: int
    batch_size: int
    pad_id: int
    device: torch.device
    reduce: Callable[[list[float]], list[float]]
    moved: Callable[[], None]
    targets: TeacherCache | None = None
    limit: int | None = None

    @functools.cached_property
    def _counts(self) -> StepCounts:
        rows = np.arange(len(self.shards))[: self.limit]
        return counts_of(self.shards.lengths(rows), self.shards.mask_counts(rows, np.zeros_like(rows)))

    def score(self, step: DistillationStep) -> Mapping[str, float]:
        """`loss` and its unweighted terms as in training; `hit@1`, and `agreement` with a teacher, at the masks."""
        counts = self._counts
        shares = heldout_rows(
            self.shards, batch_size=self.batch_size, limit=self.limit, rank=self.rank, num_workers=self.num_workers
        )
        # A worker without a batch must name the same sums as the others.
        sums = dict.fromkeys(step.score_names, 0.0)
        was_training = step.model.training
        step.model.eval()
        for planned in shares:
            cached = None if self.targets is None else self.targets.of(planned.rows)
            batch = TensorBatch.of(collate(self.shards, planned, pad_id=self.pad_id), cached)
            loss, terms, hits = step.score(batch.to(self.device), counts)
            for name, value in {"loss": loss, **terms, **hits}.items():
                sums[name] += float(value)
            self.moved()
        step.model.train(was_training)
        names = sorted(sums)
        return dict(zip(names, self.reduce([sums[name] for name in names]), strict=True))


@dataclass(frozen=True)
class HeldoutEvaluation(Hook):
    """Scores the trained model on the held-out split every few steps, and at the end.

    Attributes:
        model: the step that is trained.
        report: receives each row of scores.
        scores: the newest scores; updated in place, as checkpoints hold them too.
    """

    heldout: HeldoutScores
    model: DistillationStep
    every_steps: int
    report: Callable[[Mapping[str, float]], None]
    scores: dict[str, float]

    phase = "evaluation"

    def after_step(self, step: Step) -> None:
        """Evaluate if it is due."""
        if step.is_due(self.every_steps):
            self.evaluate(step.done)

    def evaluate(self, done: int) -> None:
        """Score the model after `done` steps; all workers together."""
        self.scores.update(self.heldout.score(self.model))
        self.report({"step": done, **self.scores})
