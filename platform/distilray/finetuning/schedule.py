"""When a fine-tuning evaluates, and its learning rate at each step."""

import math

from torch import nn, optim

from distilray.config.distillation import OptimizerConfig
from distilray.config.glue import FineTuneConfig
from distilray.training.optimizer import create_optimizer, rate_factor


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


def rate_share(step: int, total_steps: int, settings: FineTuneConfig) -> float:
    """The share of the peak learning rate at step `step`, from 0: linear up, then a line or half a cosine down to 0."""
    share = rate_factor(step, total_steps=total_steps, warmup_fraction=settings.warmup_fraction)
    warmup = max(1, round(total_steps * settings.warmup_fraction))
    if settings.schedule == "linear" or step < warmup:
        return share
    return 0.5 * (1.0 - math.cos(math.pi * share))
