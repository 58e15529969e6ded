"""AdamW with parameter groups, the linear learning-rate schedule, and the update step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distilray.config.distillation import OptimizerConfig
from distilray.models.heads import is_head_parameter


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Create AdamW with groups for encoder and head, each split by weight decay (none for biases and layer norms).

    Frozen parameters are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
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


def linear_schedule(step: int, *, total_steps: int, warmup_fraction: float) -> float:
    """Return the share of the peak rate at optimizer step `step` (from 0): linear warmup, then linear decay to 0."""
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set the rate of every group to `factor` times its peak, and return the highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


@dataclass(frozen=True)
class Update:
    """Result of an optimizer step.

    Attributes:
        learning_rate: highest rate of all parameters.
        grad_norm: gradient norm before clipping; not finite if the step was skipped.
        is_skipped: the gradient was not finite, and no parameter was changed.
    """

    learning_rate: float
    grad_norm: float
    is_skipped: bool


class Updater:
    """Updates parameters from the gradients of a step, with clipping, schedule and fp16 loss scaling.

    Args:
        schedule: step (from 0) -> share of the peak learning rate.
        uses_fp16: scale the loss; the scale is halved when gradients overflow, and raised again over time.
        on_nonfinite: "skip" a step whose gradient is not finite, or "fail".

    Attributes:
        skipped, skipped_in_a_row: number of skipped steps, in total and most recently in a row.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        *,
        max_grad_norm: float,
        uses_fp16: bool = False,
        on_nonfinite: Literal["skip", "fail"] = "skip",
    ) -> None:
        self.optimizer = optimizer
        self.skipped, self.skipped_in_a_row = 0, 0
        self._parameters = list(model.parameters())
        self._schedule, self._max_grad_norm, self._on_nonfinite = schedule, max_grad_norm, on_nonfinite
        self._scaler = torch.amp.GradScaler(self._parameters[0].device.type, enabled=uses_fp16)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss for the backward pass."""
        result: Tensor = self._scaler.scale(loss)
        return result

    def update(self, step: int) -> Update:
        """Apply the gradients of optimizer step `step` (from 0), and clear them.

        Raises:
            RuntimeError: the gradients are not finite and `on_nonfinite` is "fail".
        """
        rate = set_learning_rate(self.optimizer, self._schedule(step))
        self._scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm))
        if self._on_nonfinite == "fail" and not math.isfinite(norm):
            raise RuntimeError(f"step {step + 1}: gradient norm is {norm} at learning rate {rate:.3g}; lower the rate")
        is_skipped = not math.isfinite(norm)
        can_lower_scale = self._scaler.is_enabled() and self._scaler.get_scale() > 1.0
        if not is_skipped:
            self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += is_skipped
        # An overflow is expected as long as the scale can be lowered.
        self.skipped_in_a_row = self.skipped_in_a_row + (not can_lower_scale) if is_skipped else 0
        return Update(rate, norm, is_skipped)

    def scaler_state(self) -> Mapping[str, float]:
        """Return the state of the loss scaler for a checkpoint."""
        return {name: float(value) for name, value in self._scaler.state_dict().items()}

    def load_scaler_state(self, state: Mapping[str, float]) -> None:
        """Restore the result of `scaler_state`."""
        if state:
            counts = {name: int(state[name]) for name in ("growth_interval", "_growth_tracker")}
            self._scaler.load_state_dict({**state, **counts})
