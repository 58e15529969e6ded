"""Schedule, batches and loss of a fine-tuning run, and the outputs of a classifier for all rows of a split."""

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
    """Return the number of optimizer steps that use every row once."""
    return -(-rows // settings.batch_size)


def total_steps(rows: int, settings: FineTuneConfig) -> int:
    """Return the number of optimizer steps of a run without early stopping."""
    return settings.epochs * steps_per_epoch(rows, settings)


def evaluation_steps(rows: int, settings: FineTuneConfig) -> list[int]:
    """Return the steps after which to evaluate, in ascending order. The last one is the end of training.

    Evaluations divide each epoch evenly. A short epoch has at most one evaluation per step.
    """
    steps, count = steps_per_epoch(rows, settings), settings.evaluations_per_epoch
    in_epoch = sorted({-(-steps * number // count) for number in range(1, count + 1)})
    return [epoch * steps + step for epoch in range(settings.epochs) for step in in_epoch]


def adamw(model: nn.Module, settings: FineTuneConfig) -> optim.AdamW:
    """Return AdamW as in the BERT paper (appendix A.3), without weight decay for biases and layer norms."""
    config = OptimizerConfig(
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.999), eps=1e-8
    )
    return create_optimizer(model, config)


def learning_rate_factor(step: int, total_steps: int, settings: FineTuneConfig) -> float:
    """Return the fraction of the peak learning rate: linear warmup, then linear or cosine decay to 0.

    Args:
        step: number of the step, from 0.
    """
    factor = linear_schedule(step, total_steps=total_steps, warmup_fraction=settings.warmup_fraction)
    warmup = max(1, round(total_steps * settings.warmup_fraction))
    if settings.schedule == "linear" or step < warmup:
        return factor
    return 0.5 * (1.0 - math.cos(math.pi * factor))


class ClassifierLoss(nn.Module):
    """Weighted sum of the losses of a batch.

    Args:
        model: classifier.
        dtype: dtype of the matrix products.
        distillation: settings for the outputs of a teacher; None without a teacher.
    """

    def __init__(self, model: Any, dtype: torch.dtype, distillation: TaskDistillationConfig | None) -> None:
        super().__init__()
        self.model, self._dtype, self._distillation = model, dtype, distillation

    def forward(self, batch: FeatureBatch, weights: Tensor, teacher_outputs: Tensor | None) -> Tensor:
        """Return the sum of the row losses, weighted by `weights` (batch,).

        `teacher_outputs` has shape (batch, num_outputs).
        """
        assert batch.labels is not None
        outputs = _outputs(self.model, batch, self._dtype)
        return (weights * row_losses(outputs, batch.labels, teacher_outputs, self._distillation)).sum()


@dataclass(frozen=True)
class StepBatch:
    """Share of one worker in a step. It is a single micro-batch.

    Attributes:
        weights: (batch,) weights of the row losses; over all workers they add up to 1.
        teacher_outputs: (batch, num_outputs); None without a teacher.
        rows: (batch,) row numbers.
        size: number of rows of the whole step.
    """

    batch: FeatureBatch
    weights: Tensor
    teacher_outputs: Tensor | None
    rows: NDArray[np.int64]
    size: int
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
    """Yield the batches of one worker, starting at step `start`. Worker r of n gets the rows [r::n] of each batch."""
    train, per_epoch = features.train, steps_per_epoch(len(features.train), settings)
    first, offset = divmod(start, per_epoch)
    for epoch in itertools.count(first):
        batches = epoch_batches(train.lengths, batch_size=settings.batch_size, seed=seed, epoch=epoch)
        for rows in batches[offset if epoch == first else 0 :]:
            share, weight = rows[workers.rank :: workers.size], 1.0 / len(rows)
            if len(share) == 0:  # every worker must participate in the all-reduce of gradients
                share, weight = rows[:1], 0.0
            targets = None if teacher_outputs is None else torch.from_numpy(teacher_outputs[share])
            batch = collate(train, share, features.pad_id)
            yield StepBatch(batch, torch.full((len(share),), weight), targets, share, len(rows))


@dataclass(frozen=True)
class FineTuningObjective:
    """Objective of the training loop: computes the loss of a step.

    Attributes:
        module: a `ClassifierLoss`, or DDP around one.
    """

    module: nn.Module
    seed: int
    workers: Workers
    device: torch.device

    def __call__(self, step: int, batch: StepBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss, and its sum over the rows of the step as `row_losses`."""
        self.workers.seed_torch(self.seed, step)
        targets = None if batch.teacher_outputs is None else batch.teacher_outputs.to(self.device)
        loss: Tensor = self.module(batch.batch.to(self.device), batch.weights.to(self.device), targets)
        return loss, {"row_losses": loss.detach() * batch.size}


def row_losses(
    outputs: Tensor, labels: Tensor, teacher_outputs: Tensor | None, distillation: TaskDistillationConfig | None
) -> Tensor:
    """Return the loss of each row, (batch,): cross entropy for classes, or squared error for scores.

    With a teacher, the loss is mixed with T^2 times the divergence from the teacher's softened classes (Hinton et al.
    2015), or with the squared difference from the teacher's score.
    """
    is_regression = labels.is_floating_point()
    label_loss = (outputs[:, 0] - labels) ** 2 if is_regression else F.cross_entropy(outputs, labels, reduction="none")
    if teacher_outputs is None or distillation is None:
        return label_loss
    alpha, temperature = distillation.alpha, distillation.temperature
    if is_regression:
        teacher_loss = (outputs[:, 0] - teacher_outputs[:, 0]) ** 2
    else:
        student, teacher = ((logits / temperature).log_softmax(dim=1) for logits in (outputs, teacher_outputs))
        teacher_loss = temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return (1.0 - alpha) * label_loss + alpha * teacher_loss


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
    """Return the outputs of a model for all rows, (rows, num_outputs), the same on every worker.

    Batches, and therefore outputs, do not depend on the number of workers.
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
    """Return the outputs in fp32, (batch, num_outputs). Models without token types ignore them."""
    reads_types = architecture_of(model.config).reads_token_types
    types = {"token_type_ids": batch.token_type_ids} if reads_types else {}
    with autocast(batch.input_ids.device, dtype):
        logits: Tensor = model(batch.input_ids, attention_mask=batch.attention_mask, **types).logits
    return logits.float()
