"""Metrics of a training run: mean losses, throughput, utilization, memory, time left."""

import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from distilray.training.loop import Hook, Step


@dataclass(frozen=True)
class StepSize:
    """Size of an optimizer step, over all workers and micro-steps.

    Attributes:
        tokens, masked: real tokens, and those to predict.
        pairs: pairs of real tokens of one example: the sum of the squared lengths.
        slots: tokens and padding.
    """

    tokens: int
    masked: int
    pairs: int
    padded_tokens: int


class Meter(Hook):
    """Means over the steps since the last row. Every worker has one and asks for each row.

    Args:
        start_step: the steps done before this attempt.
        total_steps: those of the whole run.
        device: the one whose memory is told.
        reduce: gives the sums over all workers of a list of numbers.
        peak_flops: of the devices of all workers together; None leaves `mfu` out.
        flops_of: returns the flops of a step from its `StepSize`.
        report: receives each row, without values that are not finite.
        every_steps: between two rows.
        clock: seconds, from any origin.
        wall_clock: seconds since the epoch.
    """

    phase = "metrics"

    def __init__(
        self,
        start_step: int,
        *,
        total_steps: int,
        device: torch.device,
        reduce: Callable[[list[float]], list[float]] = list,
        peak_flops: float | None = None,
        flops_of: Callable[[StepSize], float] = lambda size: 0.0,
        report: Callable[[Mapping[str, float]], None] = lambda row: None,
        every_steps: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._start, self._done, self._total = start_step, start_step, total_steps
        self._device, self._reduce, self._peak = device, reduce, peak_flops
        self._flops_of, self._report, self._every_steps = flops_of, report, every_steps
        self._clock, self._wall_clock = clock, wall_clock
        self._asked = 0.0
        self._began = clock()
        self._reset(self._began)

    def _reset(self, now: float) -> None:
        self._sums: dict[str, float] = {}
        self._tokens, self._slots, self._flops, self._skipped = 0, 0, 0.0, 0
        self._waited, self._since = 0.0, now

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Time from data to forward counts as waiting for data."""
        if phase == "data":
            self._asked = self._clock()
        elif phase == "forward":
            self._waited += self._clock() - self._asked

    def after_step(self, step: Step) -> None:
        """Add the step, and report a row if one is due."""
        size: StepSize = step.batches[-1].size
        self.add(
            step.terms,
            tokens=size.tokens,
            padded_tokens=size.padded_tokens,
            flops=self._flops_of(size),
            skipped=step.update.is_skipped,
        )
        if step.is_due(self._every_steps):
            row = self.row(step.done)
            row |= {"learning_rate": step.update.learning_rate, "grad_norm": step.update.grad_norm}
            self._report({name: value for name, value in row.items() if math.isfinite(value)})

    def add(
        self, terms: Mapping[str, float], *, tokens: int, padded_tokens: int, flops: float = 0.0, skipped: bool = False
    ) -> None:
        """One step.

        Args:
            terms: this worker's share of each; they add up over the workers.
            tokens: of the whole step, over all workers.
            slots: these and their padding.
            flops: of the whole step, over all workers.
            skipped: on all workers; the gradient was not finite and nothing was learnt, so its terms do not count.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + (0.0 if skipped else value)
        self._tokens += tokens
        self._slots += padded_tokens
        self._flops += flops
        self._skipped += skipped

    def row(self, done: int) -> dict[str, Any]:
        """Means over the steps since the last row, up to step `done`.

        The terms are means over the steps that were not skipped, NaN if there are none. `tokens_per_s` is that of all
        workers together; `padding` a share of the slots; `data_wait` the share of the time that the workers waited for
        batches; `mfu` the share of `peak_flops` that went into the model's own flops; `memory_gb` (10^9 bytes) the most
        that torch has had allocated on this worker's GPU, without one the most that its process has had in memory;
        `eta_s` the seconds left at the pace of this attempt.
        """
        now, names = self._clock(), sorted(self._sums)
        elapsed, counted = now - self._since, done - self._done - self._skipped
        *sums, waited, elapsed_everywhere = self._reduce([*(self._sums[name] for name in names), self._waited, elapsed])
        row: dict[str, Any] = {"step": done}
        row |= {name: total / counted if counted else float("nan") for name, total in zip(names, sums, strict=True)}
        row |= {
            "tokens_per_s": self._tokens / elapsed,
            "padding": 1 - self._tokens / self._slots,
            "data_wait": waited / elapsed_everywhere,
            "memory_gb": _peak_memory(self._device) / 1e9,
            "skipped_steps": self._skipped,
            "eta_s": (self._total - done) * (now - self._began) / (done - self._start),
            "time": self._wall_clock(),
        }
        if self._peak is not None:
            row["mfu"] = self._flops / elapsed / self._peak
        self._done = done
        self._reset(now)
        return row


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
