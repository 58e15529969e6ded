"""The training loop, in plain torch. Teacher, student, fine-tunings and trials of a search are trained by it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from distilray.training.optimizer import Update, Updater
from distilray.training.process_group import Workers


class Objective(Protocol):
    """Computes the loss of a micro-batch.

    It seeds torch from the step, so that a resumed run repeats its dropout, and normalizes over the whole step, so that
    the losses of all micro-batches and workers add up to that of the step.
    """

    @property
    def module(self) -> nn.Module:
        """The module that runs the forward pass; wrapped in DDP when there are several workers."""

    def __call__(self, step: int, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a micro-batch of optimizer step `step` (from 0), and its terms without gradient."""


@dataclass
class Step:
    """A finished optimizer step.

    Attributes:
        done: finished steps, including this one.
        total: steps of the whole run.
        terms: this worker's share of the `loss` and of its terms; they add up over the workers.
        batches: micro-batches of this worker.
        losses: of each of them.
        checkpoint_now: set by a hook to have a checkpoint written by the hooks after it.
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
        """Whether this is the last step of the run."""
        return self.done == self.total

    def is_due(self, every_steps: int) -> bool:
        """Return whether something that happens every few steps, and after the last one, happens now."""
        return self.is_last or self.done % every_steps == 0


@dataclass(frozen=True)
class Stop:
    """A reason to end training: one word for the program, a message for the user."""

    reason: str
    message: str = ""


class Hook:
    """Extends the loop. All workers have the same hooks in the same order.

    Attributes:
        phase: name of `after_step` among the phases of a step.
    """

    phase = "hook"

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Called when a phase of step `step` (from 0) begins: data, forward, backward, update, or that of a hook."""

    def after_step(self, step: Step) -> Stop | None:
        """Called after each step; a returned `Stop` ends training at once."""


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
        The reason of a hook to end before `total`; None without one.
    """

    def enter(phase: str) -> None:
        for hook in hooks:
            hook.on_phase(step, len(used), phase)

    for step in range(start, total):
        used: list[Any] = []
        terms_of: list[dict[str, Tensor]] = []
        while not (used and used[-1].is_last):
            enter("data")
            batch = next(batches)
            enter("forward")
            with workers.gradient_sync(objective.module, enabled=batch.is_last):
                loss, terms = objective(step, batch)
                enter("backward")
                updater.scale_loss(loss * workers.size).backward()  # DDP averages over the workers, losses add up
            used.append(batch)
            terms_of.append({"loss": loss.detach(), **terms})
        sums = {name: float(sum(terms[name] for terms in terms_of)) for name in terms_of[0]}
        enter("update")
        losses = [terms["loss"] for terms in terms_of]
        finished = Step(step + 1, total, sums, used, losses, updater.update(step))
        for hook in hooks:
            enter(hook.phase)
            if stop := hook.after_step(finished):
                return stop
    return None
