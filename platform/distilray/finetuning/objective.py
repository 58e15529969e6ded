"""Steps, learning rate, batches and loss of a fine-tuning, and outputs of a classifier for every row of a split."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.nn import functional as F

from distilray.config.distillation import OptimizerConfig
from distilray.config.glue import FineTuneConfig, TaskConfig, TaskDistillationConfig
from distilray.finetuning.features import FeatureBatch, Features, TaskFeatures, collate, epoch_batches
from distilray.models.architectures import architecture_of
from distilray.models.precision import autocast
from distilray.training.optimizer import create_optimizer, linear_schedule
from distilray.training.process_group import Workers


def steps_per_epoch(rows: int, settings: FineTuneConfig) -> int:
    """Optimiser steps in which every row is used once."""
    return -(-rows // settings.batch_size)


def total_steps(rows: int, settings: FineTuneConfig) -> int:
    """Optimiser steps of a fine-tuning that nothing ends early."""
    return settings.epochs * steps_per_epoch(rows, settings)


def evaluation_steps(rows: int, settings: FineTuneConfig) -> list[int]:
    """Finished steps at each evaluation, ascending; the last is the end of the training.

    They divide each epoch evenly; an epoch of few steps has no more evaluations than steps.
    """
    steps, parts = steps_per_epoch(rows, settings), settings.evaluations_per_epoch
    inside = sorted({-(-steps * part // parts) for part in range(1, parts + 1)})
    return [epoch * steps + step for epoch in range(settings.epochs) for step in inside]


def adamw(model: nn.Module, settings: FineTuneConfig) -> optim.AdamW:
    """AdamW as in the BERT paper (appendix A.3), without decay on biases and layer norms."""
    config = OptimizerConfig(
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.999), eps=1e-8
    )
    return create_optimizer(model, config)


def learning_rate_factor(step: int, total_steps: int, settings: FineTuneConfig) -> float:
    """The share of the peak learning rate at step `step`, from 0: linear up, then a line or half a cosine down to 0."""
    share = linear_schedule(step, total_steps=total_steps, warmup_fraction=settings.warmup_fraction)
    warmup = max(1, round(total_steps * settings.warmup_fraction))
    if settings.schedule == "linear" or step < warmup:
        return share
    return 0.5 * (1.0 - math.cos(math.pi * share))


class ClassifierLoss(nn.Module):
    """Weighted sum of the losses of a batch.

    Args:
        model: a classifier.
        dtype: of the matrix products.
        distillation: how a teacher's outputs count; None without a teacher.
    """

    def __init__(self, model: Any, dtype: torch.dtype, distillation: TaskDistillationConfig | None) -> None:
        super().__init__()
        self.model, self._dtype, self._distillation = model, dtype, distillation

    def forward(self, batch: FeatureBatch, weights: Tensor, teacher_outputs: Tensor | None) -> Tensor:
        """The sum of `weights` (batch,) times the losses of the rows; `teacher_outputs`: (batch, num_outputs)."""
        assert batch.labels is not None
        outputs = _outputs(self.model, batch, self._dtype)
        return (weights * row_losses(outputs, batch.labels, teacher_outputs, self._distillation)).sum()


@dataclass(frozen=True)
class StepBatch:
    """This worker's share of a step, which is one micro-batch.

    Attributes:
        weights: (batch,) of the losses; over all workers they add up to 1.
        teacher_outputs: (batch, num_outputs); None without a teacher.
        rows: of the whole step.
    """

    batch: FeatureBatch
    weights: Tensor
    teacher_outputs: Tensor | None
    rows: int
    is_last: bool = True


def step_batches(
    features: TaskFeatures,
    settings: TaskConfig,
    seed: int,
    workers: Workers,
    *,
    start: int,
    teacher_outputs: NDArray[np.float32] | None,
) -> Iterator[StepBatch]:
    """Yield the batches of one worker from step `start` on; worker r of n has the rows [r::n] of each."""
    train, per_epoch = features.train, steps_per_epoch(len(features.train), settings)
    first, inside = divmod(start, per_epoch)
    for epoch in itertools.count(first):
        batches = epoch_batches(train.lengths, batch_size=settings.batch_size, seed=seed, epoch=epoch)
        for rows in batches[inside if epoch == first else 0 :]:
            share, weight = rows[workers.rank :: workers.size], 1.0 / len(rows)
            if len(share) == 0:  # every worker must take part in the exchange of gradients
                share, weight = rows[:1], 0.0
            taught = None if teacher_outputs is None else torch.from_numpy(teacher_outputs[share])
            batch = collate(train, share, features.pad_id)
            yield StepBatch(batch, torch.full((len(share),), weight), taught, len(rows))


@dataclass(frozen=True)
class FineTuningObjective:
    """The loss of a step as the loop asks for it.

    Attributes:
        module: a `ClassifierLoss`, or DDP around one.
    """

    module: nn.Module
    seed: int
    workers: Workers
    device: torch.device

    def __call__(self, step: int, batch: StepBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss, and as `row_losses` its sum over the rows of the step."""
        self.workers.seed_torch(self.seed, step)
        taught = None if batch.teacher_outputs is None else batch.teacher_outputs.to(self.device)
        loss: Tensor = self.module(batch.batch.to(self.device), batch.weights.to(self.device), taught)
        return loss, {"row_losses": loss.detach() * batch.rows}


def row_losses(
    outputs: Tensor, labels: Tensor, teacher_outputs: Tensor | None, distillation: TaskDistillationConfig | None
) -> Tensor:
    """(batch,) cross entropy with class ids, squared error to scores; mixed with what a teacher gives.

    The teacher's part is T^2 times the divergence of the softened classes (Hinton et al. 2015), or the squared
    difference to the teacher's score.
    """
    is_regression = labels.is_floating_point()
    own = (outputs[:, 0] - labels) ** 2 if is_regression else F.cross_entropy(outputs, labels, reduction="none")
    if teacher_outputs is None or distillation is None:
        return own
    alpha, temperature = distillation.alpha, distillation.temperature
    if is_regression:
        taught = (outputs[:, 0] - teacher_outputs[:, 0]) ** 2
    else:
        student, teacher = ((logits / temperature).log_softmax(dim=1) for logits in (outputs, teacher_outputs))
        taught = temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return (1.0 - alpha) * own + alpha * taught


@torch.inference_mode()
def predict(
    model: Any,
    features: Features,
    *,
    pad_id: int,
    device: torch.device,
    dtype: torch.dtype,
    workers: Workers | None = None,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """The outputs of a model on `device`, (rows, num_outputs) in the order of rows, the same on every worker.

    Batches do not depend on the number of workers, and so neither do the outputs.
    """
    workers = workers or Workers.single()
    order = np.argsort(features.lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    outputs = np.zeros((len(features), model.config.num_labels), np.float32)
    was_training = model.training
    model.eval()
    for rows in batches[workers.rank :: workers.size]:
        batch = collate(features, rows, pad_id).to(device)
        outputs[rows] = _outputs(model, batch, dtype).cpu().numpy()
    model.train(was_training)
    return workers.sum(outputs)


def _outputs(model: Any, batch: FeatureBatch, dtype: torch.dtype) -> Tensor:
    """(batch, num_outputs) in fp32; families without token types ignore them."""
    reads_types = architecture_of(model.config).reads_token_types
    types = {"token_type_ids": batch.token_type_ids} if reads_types else {}
    with autocast(batch.input_ids.device, dtype):
        logits: Tensor = model(batch.input_ids, attention_mask=batch.attention_mask, **types).logits
    return logits.float()
