"""Training loop in plain torch, for teachers, students, fine-tuning runs and search trials."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distilray.training.optimizer import Update, Updater
from distilray.training.process_group import Workers


class MicroBatch(Protocol):
    """Micro-batch of one worker. The loop releases it, with its tensors, after the backward pass.

    Attributes:
        is_last: True for the last micro-batch of an optimizer step.
        rows: row numbers of its examples.
        size: size of the whole optimizer step, over all workers.
    """

    @property
    def is_last(self) -> bool: ...
    @property
    def rows(self) -> Any: ...
    @property
    def size(self) -> Any: ...


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
        size: size of the step, over all workers.
        rows: row numbers of the examples of each micro-batch of this worker.
        losses: (micro-batches,) loss of each micro-batch of this worker, on its device.
        checkpoint_now: set by a hook to request a checkpoint from a later hook.
    """

    done: int
    total: int
    terms: Mapping[str, float]
    size: Any
    rows: Sequence[Any]
    losses: Tensor
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
    batches: Iterator[MicroBatch],
    updater: Updater,
    workers: Workers,
    hooks: Sequence[Hook],
    *,
    start: int,
    total: int,
) -> Stop | None:
    """Train from step `start` up to `total`.

    Returns:
        The reason if a hook stopped training, else None.
    """

    def enter(phase: str) -> None:
        for hook in hooks:
            hook.on_phase(step, len(rows), phase)

    for step in range(start, total):
        rows: list[Any] = []
        values: list[Tensor] = []  # (1 + terms,) loss and terms of each micro-batch
        is_last = False
        while not is_last:
            enter("data")
            batch = next(batches)
            is_last, size = batch.is_last, batch.size
            enter("forward")
            with workers.gradient_sync(objective.module, enabled=is_last):
                loss, terms = objective(step, batch)
                enter("backward")
                updater.scale_loss(loss * workers.size).backward()  # DDP averages, but losses add up
            rows.append(batch.rows)
            del batch
            values.append(torch.stack([loss.detach(), *terms.values()]))
        enter("update")
        norm, *sums = _read(updater.clip_gradients(), values)
        named, losses = dict(zip(["loss", *terms], sums, strict=True)), torch.stack(values)[:, 0]
        completed = Step(step + 1, total, named, size, rows, losses, updater.update(step, norm))
        for hook in hooks:
            enter(hook.phase)
            if stop := hook.after_step(completed):
                return stop
    return None


def _read(norm: Tensor, values: Sequence[Tensor]) -> list[float]:
    """Return a scalar and the sum of some vectors. Only here does the host wait for the device in a step."""
    numbers: list[float] = torch.cat([norm.view(1), functools.reduce(torch.add, values)]).tolist()
    return numbers
