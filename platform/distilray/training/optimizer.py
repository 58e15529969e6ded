"""AdamW with correct no-decay groups, the linear schedule as a function of the step, and the update that they make."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distilray.config.distillation import OptimizerConfig
from distilray.models.heads import is_head_parameter


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


def linear_schedule(step: int, *, total_steps: int, warmup_fraction: float) -> float:
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


@dataclass(frozen=True)
class Update:
    """What an optimiser step did.

    Attributes:
        learning_rate: the highest of all parameters.
        grad_norm: before clipping; not finite when the step was skipped.
        is_skipped: the gradient was not finite, and nothing was changed.
    """

    learning_rate: float
    grad_norm: float
    is_skipped: bool


class Updater:
    """Turns the gradients of a step into an update, or skips it when they are not finite.

    With fp16 the loss is multiplied with a scale that is halved when gradients overflow, and raised again in time.

    Args:
        schedule: step (from 0) -> share of the peak learning rate.
        uses_fp16: of the forward passes.
        on_nonfinite: "skip" a step whose gradient is not finite, or "fail".

    Attributes:
        skipped, skipped_in_a_row: steps that were skipped, all of the run's and those in a row up to now.
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
        """The loss whose gradient is to be taken."""
        found: Tensor = self._scaler.scale(loss)
        return found

    def update(self, step: int) -> Update:
        """Apply the gradients of optimizer step `step` (from 0), and clear them.

        Raises:
            RuntimeError: they are not finite, and `on_nonfinite` is "fail".
        """
        rate = set_learning_rate(self.optimizer, self._schedule(step))
        self._scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm))
        if self._on_nonfinite == "fail" and not math.isfinite(norm):
            raise RuntimeError(f"step {step + 1}: gradient norm is {norm} at learning rate {rate:.3g}; lower it")
        is_skipped = not math.isfinite(norm)
        lowered = self._scaler.is_enabled() and self._scaler.get_scale() > 1.0
        if not is_skipped:
            self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += is_skipped
        # A scale that can still be lowered is no sign of a fault.
        self.skipped_in_a_row = self.skipped_in_a_row + (not lowered) if is_skipped else 0
        return Update(rate, norm, is_skipped)

    def scaler_state(self) -> Mapping[str, float]:
        """Of the loss scale, for a checkpoint."""
        return {name: float(value) for name, value in self._scaler.state_dict().items()}

    def load_scaler_state(self, state: Mapping[str, float]) -> None:
        """Takes up what `scaler_state` gave."""
        if state:
            counts = {name: int(state[name]) for name in ("growth_interval", "_growth_tracker")}
            self._scaler.load_state_dict({**state, **counts})
