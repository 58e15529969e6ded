"""Cells that train: speed and memory of the step, DDP with one worker, and a minute of training."""

import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn
from torch._dynamo.utils import counters

from benchmarks.gpu.cells import Cell
from benchmarks.gpu.workload import MASK_SHARE, Training, Workload, allocated_bytes
from distilray.distillation.memory import worker_memory_gb
from distilray.training.loop import Hook, Step, Stop
from distilray.training.process_group import Workers

WARM_UP = 2  # optimizer steps
GROWTH_LIMIT = 0.02  # of the allocated memory, between the first and the second half of a training run


@dataclass
class Recorder(Hook):
    """Records time, allocated memory and compiled graphs after each step, and stops after `seconds`."""

    device: torch.device
    seconds: float = math.inf
    times: list[float] = field(default_factory=lambda: [time.perf_counter()])
    memory: list[int] = field(default_factory=list)
    graphs: list[int] = field(default_factory=list)

    def after_step(self, step: Step) -> Stop | None:
        self.times.append(time.perf_counter())
        self.memory.append(allocated_bytes(self.device))
        self.graphs.append(counters["stats"]["unique_graphs"])
        return Stop("time") if self.times[-1] - self.times[0] > self.seconds else None


def step(workload: Workload, cell: Cell) -> dict[str, Any]:
    """Measure the optimizer step."""
    training, device = Training(workload, cell, workload.device), workload.device
    recorder, steps = Recorder(device), workload.size.steps
    measured = training.run(0, WARM_UP + steps, hooks=[recorder])[WARM_UP:]
    is_gpu = device.type == "cuda"
    medians = {name: _median(measured, name) for name in ("tokens_per_s", "mfu", "loss", "padding", "data_wait")}
    return medians | {
        "memory_gb": measured[-1]["memory_gb"],
        "reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9 if is_gpu else None,
        "planned_gb": worker_memory_gb(
            training.config,
            training.config.losses,
            max_seq_length=workload.length,
            masked_share=MASK_SHARE,
            model=training.student,
            teacher=training.teacher,
        ),
        "warm_up_s": recorder.times[WARM_UP] - recorder.times[0],
        "recompiled": recorder.graphs[-1] - recorder.graphs[WARM_UP - 1],
        "skipped_steps": sum(row["skipped_steps"] for row in measured),
        "syncs": synchronizations(training, WARM_UP + steps) if is_gpu else None,
        "message": "compiled again after the warm-up" if recorder.graphs[-1] > recorder.graphs[WARM_UP - 1] else "",
    }


def synchronizations(training: Training, number: int) -> float:
    """Return how often the host waits for the GPU per micro-step in one more step.

    torch reports each with a warning. The wait of the benchmark's own hook after the step is not reported.
    """
    micro_steps = -(-training.config.batch_size // training.config.micro_batch_size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            training.run(number, number + 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught) / micro_steps


def train(workload: Workload, cell: Cell) -> dict[str, Any]:
    """Train for a minute; compare loss, speed and memory at its start and at its end."""
    recorder = Recorder(workload.device, workload.size.training_s)
    rows = Training(workload, cell, workload.device).run(0, workload.size.training_steps, hooks=[recorder])
    tenth, half = max(1, len(rows) // 10), len(rows) // 2
    losses = [statistics.fmean(row["loss"] for row in part) for part in (rows[:tenth], rows[-tenth:])]
    growth = max(recorder.memory[half:]) / max(recorder.memory[: half or 1]) - 1
    speeds = [_median(part, "tokens_per_s") for part in (rows[WARM_UP : half + 1], rows[half:])]
    problems = []
    if not losses[1] < losses[0]:
        problems.append("the loss does not fall")
    if growth > GROWTH_LIMIT and workload.device.type == "cuda":
        problems.append("memory grows")
    return {
        "tokens_per_s": _median(rows[WARM_UP:], "tokens_per_s"),
        "mfu": _median(rows[WARM_UP:], "mfu"),
        "memory_gb": rows[-1]["memory_gb"],
        "first_loss": losses[0],
        "last_loss": losses[1],
        "memory_growth": growth,
        "steps": len(rows),
        "speed_over_time": [row["tokens_per_s"] for row in rows],
        "is_failed": bool(problems),
        "message": "; ".join(
            [
                *problems,
                f"{len(rows)} steps, loss {losses[0]:.2f} to {losses[1]:.2f}, memory {growth:+.1%}",
                f"second half at {_ratio(speeds[1], speeds[0])} of the first half's speed",
            ]
        ),
    }


def ddp(workload: Workload, cell: Cell) -> dict[str, Any]:
    """Compare a process group of one worker with no DDP: loss of each step, and speed."""
    steps, device = WARM_UP + workload.size.steps, workload.device
    alone = Training(workload, cell, device).run(0, steps)
    workload.release()  # a wrapped model would keep DDP's hooks
    try:
        with _process_group(device):
            wrapped = Training(workload, cell, device, wrap=lambda module: _wrap(module, device)).run(0, steps)
    finally:
        workload.release()
    differences = [
        abs(one["loss"] - other["loss"]) / abs(one["loss"]) for one, other in zip(alone, wrapped, strict=True)
    ]
    speeds = [_median(rows[WARM_UP:], "tokens_per_s") for rows in (wrapped, alone)]
    limit = 1e-3 if cell.precision == "fp32" else 1e-2
    return {
        "tokens_per_s": speeds[0],
        "mfu": _median(wrapped[WARM_UP:], "mfu"),
        "memory_gb": wrapped[-1]["memory_gb"],
        "tokens_per_s_without": speeds[1],
        "loss_difference": max(differences),
        "is_failed": not max(differences) <= limit,
        "message": f"{_ratio(*speeds)} of the speed without DDP; losses differ by {max(differences):.1e} "
        f"(at most {limit:g})",
    }


def _wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a module as for several workers. The group has one; with `size` 1, `wrap` would do nothing."""
    return Workers(0, 2, device).wrap(module, device)


@contextmanager
def _process_group(device: torch.device) -> Iterator[None]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _median(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return statistics.median(values) if values else None


def _ratio(value: float | None, reference: float | None) -> str:
    return f"{value / reference:.0%}" if value and reference else "an unknown share"


CELLS: Mapping[str, Any] = {"step": step, "training": train, "ddp": ddp}
