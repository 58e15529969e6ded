"""AdamW with correct no-decay groups, and the linear schedule as a function of the step."""

import torch
from torch import nn

from distilray.config.distillation import OptimizerConfig
from distilray.models.masked_lm import is_head_parameter


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over up to four groups: with and without decay (biases and layer norms), encoder and vocabulary head."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((is_head_parameter(name), parameter.dim() > 1), []).append(parameter)
    rates = {True: config.head_learning_rate or config.learning_rate, False: config.learning_rate}
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": rates[is_head],
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (is_head, decays), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def rate_factor(step: int, *, total_steps: int, warmup_fraction: float) -> float:
    """The share of the peak learning rate at optimiser step `step` (from 0): linear up, then linear down to 0."""
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group to its peak rate times `factor`; returns the highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)
