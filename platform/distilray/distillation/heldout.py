"""Evaluation on the held-out split during training."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distilray.distillation.feed import loss_divisors
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.distillation.teacher_cache import TeacherCache
from distilray.pretraining_data.batches import collate, heldout_rows, prefetch
from distilray.pretraining_data.shards import ShardSet
from distilray.training.loop import Hook, Step


@dataclass(frozen=True)
class HeldoutScorer:
    """Scores models on the held-out split: loss, its terms, hit@1 and agreement with the teacher.

    Attributes:
        reduce: sums values over all workers.
        on_batch: called after each batch.
        targets: cached outputs of the teacher; None if the teacher runs, or if there is no teacher.
        limit: number of examples to use. Shards store examples in random order, so the first ones are a random sample.
    """

    shards: ShardSet
    rank: int
    num_workers: int
    batch_size: int
    pad_id: int
    device: torch.device
    reduce: Callable[[list[float]], list[float]]
    on_batch: Callable[[], None]
    targets: TeacherCache | None = None
    limit: int | None = None

    @functools.cached_property
    def _divisors(self) -> LossDivisors:
        rows = np.arange(len(self.shards))[: self.limit]
        return loss_divisors(self.shards.lengths(rows), self.shards.mask_counts(rows, np.zeros_like(rows)))

    def score(self, module: DistillationLoss) -> Mapping[str, float]:
        """Return `loss` and its unweighted terms as in training, `hit@1`, and `agreement` if there is a teacher."""
        # All workers must reduce the same names, even a worker that has no batch.
        names = sorted(module.score_names)
        sums = torch.zeros(len(names), dtype=torch.float64, device=self.device)
        was_training = module.model.training
        module.model.eval()
        for batch in prefetch(self._batches):
            loss, terms, hits = module.score(batch.to(self.device), self._divisors)
            values = {"loss": loss, **terms, **hits}
            sums += torch.stack([values[name] for name in names])
            self.on_batch()
        module.model.train(was_training)
        return dict(zip(names, self.reduce(sums.tolist()), strict=True))

    def _batches(self) -> Iterator[TensorBatch]:
        """Yield the batches of this worker, on the host."""
        for planned in heldout_rows(
            self.shards, batch_size=self.batch_size, limit=self.limit, rank=self.rank, num_workers=self.num_workers
        ):
            cached = None if self.targets is None else self.targets.of(planned.rows)
            batch = collate(self.shards, planned, pad_id=self.pad_id)
            yield TensorBatch.of(batch, cached, pinned=self.device.type == "cuda")


@dataclass(frozen=True)
class HeldoutEvaluation(Hook):
    """Scores the model on the held-out split every few steps and at the end.

    Attributes:
        module: loss module of the model in training.
        report: receives each row of scores.
        scores: the latest scores. They are updated in place because checkpoints store the same object.
    """

    scorer: HeldoutScorer
    module: DistillationLoss
    every_steps: int
    report: Callable[[Mapping[str, float]], None]
    scores: dict[str, float]

    phase = "evaluation"

    def after_step(self, step: Step) -> None:
        """Evaluate if this step is due."""
        if step.is_due(self.every_steps):
            self.evaluate(step.done)

    def evaluate(self, done: int) -> None:
        """Score the model after `done` steps. All workers must call it together."""
        self.scores.update(self.scorer.score(self.module))
        self.report({"step": done, **self.scores})
