"""The gradients of an optimiser step: forward and backward of a worker's micro-batches."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilray.distillation.feed import MicroStep, StepSize
from distilray.runtime.seeding import hash_integers


@dataclass(frozen=True)
class Accumulated:
    """What a worker did for a step.

    Attributes:
        terms: its shares of the loss and of its terms; they add up over the workers.
        size: of the whole step.
        odd_rows: rows of its micro-batches whose loss is not finite.
    """

    terms: Mapping[str, float]
    size: StepSize
    odd_rows: list[int]


@dataclass(frozen=True)
class Accumulation:
    """Adds up gradients in the trained model.

    Attributes:
        module: a `DistillationStep`, or DDP around one.
        scaled: loss -> what is differentiated.
        moved: (step, micro-step, phase that begins).
    """

    module: nn.Module
    scaled: Callable[[Tensor], Tensor]
    seed: int
    rank: int
    num_workers: int
    device: torch.device
    moved: Callable[[int, int, str], None]

    def run(self, step: int, batches: Iterator[MicroStep]) -> Accumulated:
        """Takes the micro-steps of optimiser step `step`; gradients are summed over workers with the last of them."""
        sums: dict[str, Tensor] = {}
        done: list[tuple[Tensor, MicroStep]] = []
        while True:
            self.moved(step, len(done), "data")
            micro = next(batches)
            for name, term in self._micro_step(step, micro).items():
                sums[name] = sums[name] + term if name in sums else term
                if name == "loss":
                    done.append((term, micro))
            if micro.is_last:
                break
        terms = {name: float(term) for name, term in sums.items()}
        odd = [] if math.isfinite(terms["loss"]) else [one for loss, one in done if not loss.isfinite()]
        return Accumulated(terms, micro.size, [row for one in odd for row in one.rows.tolist()])

    def _micro_step(self, step: int, micro: MicroStep) -> dict[str, Tensor]:
        self.moved(step, micro.number, "forward")
        # Dropout depends on the step and the worker alone, so that a resumed run repeats it.
        torch.manual_seed(int(hash_integers(self.seed, step, micro.number, self.rank) >> np.uint64(1)))
        sync: Any = contextlib.nullcontext()
        if self.num_workers > 1 and not micro.is_last:
            sync = self.module.no_sync()  # type: ignore[operator]
        with sync:
            loss, terms = self.module(micro.batch.to(self.device), micro.counts)
            self.moved(step, micro.number, "backward")
            # DDP averages over workers, the loss terms add up over them.
            self.scaled(loss * self.num_workers).backward()
        return {"loss": loss.detach(), **terms}
