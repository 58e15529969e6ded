"""One worker's part of the steps and evaluations of a fine-tuning."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilray.config.glue import TaskConfig, TaskDistillationConfig
from distilray.evaluation.glue.features import Rows, TaskFeatures, collate, epoch_batches
from distilray.evaluation.glue.metrics import task_scores
from distilray.evaluation.glue.tasks import GlueTask
from distilray.evaluation.glue.training.objective import Objective, predict
from distilray.evaluation.glue.training.schedule import (
    adamw,
    evaluation_steps,
    rate_share,
    steps_per_epoch,
    total_steps,
)
from distilray.pretraining_data.sample_plan import PlanState
from distilray.runtime.seeding import hash_integers
from distilray.training.optimizer import set_learning_rate
from distilray.training.process_group import Workers


class Steps:
    """The optimiser steps of a fine-tuning; its model and optimiser may be given the state of any of them.

    Args:
        model: on `device`.
        teacher_outputs: (training rows, num_outputs), with `distillation`; None without a teacher.
    """

    def __init__(
        self,
        model: Any,
        features: TaskFeatures,
        settings: TaskConfig,
        *,
        task: GlueTask,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        workers: Workers,
        teacher_outputs: NDArray[np.float32] | None = None,
        distillation: TaskDistillationConfig | None = None,
    ) -> None:
        rows = len(features.train)
        self.model, self.optimizer = model, adamw(model, settings)
        self.per_epoch, self.evaluated = steps_per_epoch(rows, settings), evaluation_steps(rows, settings)
        self.total = total_steps(rows, settings)
        self._features, self._settings, self._task, self._seed = features, settings, task, seed
        self._device, self._dtype, self._workers = device, dtype, workers
        self._teacher_outputs = teacher_outputs
        self._module = workers.wrap(Objective(model, dtype, distillation), device)
        self._loss_sum, self._rows_seen = torch.zeros((), dtype=torch.float64, device=device), 0
        self._epoch = -1
        self._batches: list[Rows] = []

    def plan(self, done: int) -> PlanState:
        """Epochs that are whole after `done` steps, and rows of the one that has begun."""
        epoch, inside = divmod(done, self.per_epoch)
        return PlanState(epoch, inside * self._settings.batch_size)

    def take(self, step: int) -> None:
        """Step `step`, from 0; worker r of n takes the rows [r::n] of the batch.

        Raises:
            RuntimeError: the gradient is not finite.
        """
        rate = set_learning_rate(self.optimizer, rate_share(step, self.total, self._settings))
        loss, rows = self._loss(step)
        # DDP takes the mean over the workers, whose shares of the loss add up.
        (loss * self._workers.size).backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.max_grad_norm))
        if not math.isfinite(norm):
            raise RuntimeError(f"step {step + 1}: gradient norm is {norm} at learning rate {rate:.3g}; lower it")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_sum += loss.detach() * rows
        self._rows_seen += rows

    def scores(self) -> dict[str, float]:
        """Scores on the dev sets; all workers together."""
        outputs, labels = {}, {}
        for name, features in self._features.dev.items():
            assert features.labels is not None
            labels[name] = features.labels
            outputs[name] = predict(
                self.model,
                features,
                pad_id=self._features.pad_id,
                device=self._device,
                dtype=self._dtype,
                workers=self._workers,
            )
        return task_scores(self._task, outputs, labels)

    def train_loss(self) -> float:
        """Mean loss over the rows since the last call, or the start."""
        total = float(self._workers.sum(np.array([float(self._loss_sum)]))[0])
        mean = total / max(1, self._rows_seen)
        self._loss_sum.zero_()
        self._rows_seen = 0
        return mean

    def _loss(self, step: int) -> tuple[Tensor, int]:
        """This worker's share of the mean loss of the batch, and the rows of the whole batch."""
        rank, size = self._workers.rank, self._workers.size
        torch.manual_seed(int(hash_integers(self._seed, step, rank) >> np.uint64(1)))
        epoch, inside = divmod(step, self.per_epoch)
        rows = self._batches_of(epoch)[inside]
        share, weight = rows[rank::size], 1.0 / len(rows)
        if len(share) == 0:  # every worker must take part in the exchange of gradients
            share, weight = rows[:1], 0.0
        batch = collate(self._features.train, share, self._features.pad_id).to(self._device)
        weights = torch.full((len(share),), weight, device=self._device)
        teacher = self._teacher_outputs
        taught = None if teacher is None else torch.from_numpy(teacher[share]).to(self._device)
        self.model.train()
        loss: Tensor = self._module(batch, weights, taught)
        return loss, len(rows)

    def _batches_of(self, epoch: int) -> list[Rows]:
        if self._epoch != epoch:
            lengths, size = self._features.train.lengths, self._settings.batch_size
            self._epoch = epoch
            self._batches = epoch_batches(lengths, batch_size=size, seed=self._seed, epoch=epoch)
        return self._batches
