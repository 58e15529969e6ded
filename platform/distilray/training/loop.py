"""Training loop in plain torch, for teachers, students, fine-tuning runs and search trials."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from distilray.training.optimizer import Update, Updater
from distilray.training.process_group import Workers


class Objective(Protocol):
    """Loss of a micro-batch.

    An objective seeds torch from the step, so that a resumed run repeats its dropout, and normalizes over the whole
    step, so that the losses of all micro-batches and workers add up to the loss of the step.
    """

    @property
    def module(self) -> nn.Module:
        """Module of the forward pass; wrapped in DDP if there are several workers."""

    def __call__(self, step: int, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a micro-batch of optimizer step `step` (from 0), and its detached terms."""


@dataclass
class Step:
    """Completed optimizer step.

    Attributes:
        done: number of completed steps, including this one.
        total: number of steps of the run.
        terms: this worker's share of the `loss` and its terms; the shares of all workers add up.
        batches: micro-batches of this worker.
        losses: loss of each micro-batch.
        checkpoint_now: set by a hook to request a checkpoint from a later hook.
    """

    done: int
    total: int
    terms: Mapping[str, float]
    batches: Sequence[Any]
    losses: Sequence[Tensor]
    update: Update
    checkpoint_now: bool = False

    @property
    def is_last(self) -> bool:
        """True for the last step of the run."""
        return self.done == self.total

    def is_due(self, every_steps: int) -> bool:
        """Return True every `every_steps` steps and after the last step."""
        return self.is_last or self.done % every_steps == 0


@dataclass(frozen=True)
class Stop:
    """Reason to stop training: one word for code, a message for users."""

    reason: str
    message: str = ""


class Hook:
    """Extension of the loop. All workers have the same hooks in the same order.

    Attributes:
        phase: name of the phase in which `after_step` runs.
    """

    phase = "hook"

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Handle the start of a phase of step `step` (from 0): data, forward, backward, update, or that of a hook."""

    def after_step(self, step: Step) -> Stop | None:
        """Handle a completed step; return a `Stop` to end training immediately."""


def train(
    objective: Objective,
    batches: Iterator[Any],
    updater: Updater,
    workers: Workers,
    hooks: Sequence[Hook],
    *,
    start: int,
    total: int,
) -> Stop | None:
    """Train from step `start` up to `total`.

    Args:
        batches: micro-batches of this worker; the last one of each step has `is_last` set.

    Returns:
        The reason if a hook stopped training, else None.
    """

    def enter(phase: str) -> None:
        for hook in hooks:
            hook.on_phase(step, len(micro_batches), phase)

    for step in range(start, total):
        micro_batches: list[Any] = []
        terms_by_batch: list[dict[str, Tensor]] = []
        while not (micro_batches and micro_batches[-1].is_last):
            enter("data")
            batch = next(batches)
            enter("forward")
            with workers.gradient_sync(objective.module, enabled=batch.is_last):
                loss, terms = objective(step, batch)
                enter("backward")
                updater.scale_loss(loss * workers.size).backward()  # DDP averages, but losses add up
            micro_batches.append(batch)
            terms_by_batch.append({"loss": loss.detach(), **terms})
        sums = {name: float(sum(terms[name] for terms in terms_by_batch)) for name in terms_by_batch[0]}
        enter("update")
        losses = [terms["loss"] for terms in terms_by_batch]
        completed = Step(step + 1, total, sums, micro_batches, losses, updater.update(step))
        for hook in hooks:
            enter(hook.phase)
            if stop := hook.after_step(completed):
                return stop
    return None
