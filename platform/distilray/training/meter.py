"""Metrics of a training run: mean losses, throughput, utilization, memory, remaining time."""

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
        tokens, masked: number of real tokens, and of those to predict.
        pairs: number of pairs of real tokens of the same example, which is the sum of squared lengths.
        padded_tokens: number of tokens including padding.
    """

    tokens: int
    masked: int
    pairs: int
    padded_tokens: int


class Meter(Hook):
    """Hook that averages metrics over the steps since the last row. Rows are computed by all workers together.

    Args:
        start_step: number of steps completed before this attempt.
        total_steps: number of steps of the run.
        device: device whose memory is reported.
        reduce: sums each number of a list over all workers.
        peak_flops: peak flops per second of all workers together; None omits `mfu`.
        flops_of: maps the `StepSize` of a step to its flops.
        report: receives each row, without values that are not finite.
        every_steps: steps between two rows.
        clock: returns seconds from an arbitrary origin.
        wall_clock: returns seconds since the epoch.
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
        self._start, self._last_row, self._total = start_step, start_step, total_steps
        self._device, self._reduce, self._peak = device, reduce, peak_flops
        self._flops_of, self._report, self._every_steps = flops_of, report, every_steps
        self._clock, self._wall_clock = clock, wall_clock
        self._data_started = 0.0
        self._started = clock()
        self._reset(self._started)

    def _reset(self, now: float) -> None:
        self._sums: dict[str, float] = {}
        self._tokens, self._padded_tokens, self._flops, self._skipped = 0, 0, 0.0, 0
        self._waited, self._since = 0.0, now

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        """Measure the time from data to forward, which is spent waiting for data."""
        if phase == "data":
            self._data_started = self._clock()
        elif phase == "forward":
            self._waited += self._clock() - self._data_started

    def after_step(self, step: Step) -> None:
        """Add the step, and report a row if one is due."""
        size: StepSize = step.size
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
        """Add one step.

        Args:
            terms: this worker's share of each term; the shares of all workers add up.
            tokens: number of tokens of the step, over all workers.
            padded_tokens: number of tokens including padding, over all workers.
            flops: flops of the step, over all workers.
            skipped: the gradient was not finite; the terms do not count.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + (0.0 if skipped else value)
        self._tokens += tokens
        self._padded_tokens += padded_tokens
        self._flops += flops
        self._skipped += skipped

    def row(self, done: int) -> dict[str, Any]:
        """Return the metrics of the steps since the last row, up to step `done`.

        Loss terms are means over the steps that were not skipped, NaN without any. `tokens_per_s` is the throughput of
        all workers, `padding` the share of padding tokens, `data_wait` the share of time spent waiting for batches,
        `mfu` the model flops as a share of `peak_flops`, `memory_gb` (10^9 bytes) the peak memory that torch has
        allocated on this worker's GPU or, without a GPU, the peak of its process, and `eta_s` the remaining seconds at
        the rate of this attempt.
        """
        now, names = self._clock(), sorted(self._sums)
        elapsed, counted = now - self._since, done - self._last_row - self._skipped
        *sums, waited, worker_seconds = self._reduce([*(self._sums[name] for name in names), self._waited, elapsed])
        row: dict[str, Any] = {"step": done}
        row |= {name: total / counted if counted else float("nan") for name, total in zip(names, sums, strict=True)}
        row |= {
            "tokens_per_s": self._tokens / elapsed,
            "padding": 1 - self._tokens / self._padded_tokens,
            "data_wait": waited / worker_seconds,
            "memory_gb": _peak_memory_bytes(self._device) / 1e9,
            "skipped_steps": self._skipped,
            "eta_s": (self._total - done) * (now - self._started) / (done - self._start),
            "time": self._wall_clock(),
        }
        if self._peak is not None:
            row["mfu"] = self._flops / elapsed / self._peak
        self._last_row = done
        self._reset(now)
        return row


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
