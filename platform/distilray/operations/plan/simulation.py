"""Simulated training on some number of workers: components of a step, stragglers, preemptions, time of the run."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.config.capacity import PlanConfig, SlowdownsConfig
from distilray.distillation.cost import SAVED_BYTES, measured_tokens_per_s
from distilray.errors import InputError
from distilray.operations.plan.machines import Machine, find_machine
from distilray.operations.plan.workload import TrainingEstimate, flops_per_s, heldout_passes

STEP_PARTS = ("compute", "stragglers", "all-reduce", "update", "input", "checkpoints", "held-out scores")
# Python and torch take 9.5 ms to start all kernels of a micro-step (student and teacher of 6 and 12 layers, next to no
# arithmetic, one core of a Xeon of 2023). On a GPU they run beside the kernels; a micro-step takes at least this time.
MICRO_STEP_FLOOR_S = 0.0095
HOP_LATENCY_US = 20.0  # of the ring of an all-reduce
OVERLAP = 0.8  # of an all-reduce, behind the last backward pass
_GRADIENT_BYTES = 4  # of a parameter: fp32
_UPDATE_BYTES = 28  # of a parameter: AdamW reads it, its gradient and two moments, and writes three of them
_INPUT_TOKENS_PER_S = 9.9e6  # of a core: the slower of the two kinds of masks at 512 tokens (docs/benchmarks.md)
_COPY_BYTES_PER_S = 6e9  # of a checkpoint to the host's memory: 0.8 GB in 0.13 s (docs/benchmarks.md)
_SIMULATED_STEPS, _TRIALS = 1000, 200  # whose stragglers are drawn; runs with drawn preemptions
_MOST_PREEMPTIONS = 5_000  # of a run
_MOST_FAILURES = 3.0  # preemptions expected between two checkpoints
_GB, _BITS = 1e9, 8


@dataclass(frozen=True)
class TrainingModel:
    """A training run and the machines that it runs on. Rates are bytes or tokens per second.

    Attributes:
        examples, tokens: of a step, over all workers.
        micro_batch_size: examples of one forward pass of a worker, at most.
        compute_s: of a step, by one worker that does all of it alone, undisturbed, with a device of its own.
        backward_share: of `compute_s`, the part of the backward pass.
        gradient_bytes: summed by an all-reduce.
        update_bytes: read and written by the optimizer, on every worker.
        checkpoint_s: the pause for a checkpoint; the file is written beside the steps.
        scores_s: one pass over the held-out examples by one worker; score_passes: of the whole run.
        micro_step_floor_s: minimum for a micro-step, until all its kernels are launched.
        memory_rate: of a device, or of all cores that a worker has.
        link_rate: between devices of a machine; network_rate: of a machine to others.
        latency_s: of one hop of the ring.
        overlap: part of an all-reduce that may run during the last backward pass.
        input_rate: tokens that a worker's feed prepares; it runs beside the step.
        cores: of a machine, which its workers share; None where each has a GPU of its own.
        threads: of a worker.
        max_machines: further workers share the cores of these.
    """

    steps: int
    examples: int
    tokens: float
    micro_batch_size: int
    compute_s: float
    backward_share: float
    gradient_bytes: float
    update_bytes: float
    checkpoint_every_steps: int
    checkpoint_s: float
    scores_s: float
    score_passes: int
    workers_per_machine: int
    micro_step_floor_s: float
    memory_rate: float
    link_rate: float
    network_rate: float
    latency_s: float = HOP_LATENCY_US * 1e-6
    overlap: float = OVERLAP
    input_rate: float = _INPUT_TOKENS_PER_S
    cores: float | None = None
    threads: int = 1
    max_machines: int | None = None

    def machines(self, workers: int) -> int:
        needed = -(-workers // self.workers_per_machine)
        return needed if self.max_machines is None else min(needed, self.max_machines)

    def crowding(self, workers: int) -> float:
        """Return the slowdown of a worker on shared cores: threads of a machine over its cores, at least 1."""
        if self.cores is None:
            return 1.0
        return max(1.0, -(-workers // self.machines(workers)) * self.threads / self.cores)

    def all_reduce_s(self, workers: int) -> float:
        """Return the seconds of a ring all-reduce: 2 (n - 1) / n of the bytes over the slowest hop, and 2 (n - 1) hops.

        Where the ring leaves a machine, the network is a hop of it (Patarasuk and Yuan 2009).
        """
        if workers == 1:
            return 0.0
        hops = [self.link_rate] if self.workers_per_machine > 1 else []
        hops += [self.network_rate] if self.machines(workers) > 1 else []
        size = self.gradient_bytes
        return 2 * (workers - 1) / workers * size / min(hops) + 2 * (workers - 1) * self.latency_s

    def step_parts(self, workers: int, delay: float) -> dict[str, float]:
        """Return the mean seconds of each component of a step; work between steps is spread over them.

        Args:
            delay: of the last worker, as part of its compute time.
        """
        crowding = self.crowding(workers)
        micro_steps = math.ceil(self.examples / (workers * self.micro_batch_size))
        micro_s = max(self.compute_s * crowding / (workers * micro_steps), self.micro_step_floor_s)
        compute, exchange = micro_steps * micro_s, self.all_reduce_s(workers)
        return {
            "compute": compute,
            "stragglers": compute * delay,
            "all-reduce": exchange - min(self.overlap * exchange, self.backward_share * micro_s),
            "update": self.update_bytes / self.memory_rate * crowding,
            "input": max(0.0, self.tokens / workers / self.input_rate - compute),
            "checkpoints": self.checkpoint_s / self.checkpoint_every_steps,
            "held-out scores": self.score_passes * (self.scores_s * crowding / workers) / self.steps,
        }


@dataclass(frozen=True)
class ScaledRun:
    """A run with some number of workers.

    Attributes:
        parts: mean seconds of a step by `PARTS`.
        hours: mean over the simulated runs; hours_p90: the run that nine of ten are faster than.
        efficiency: tokens per second over those of as many undisturbed workers that need not wait for each other.
    """

    workers: int
    machines: int
    parts: Mapping[str, float]
    tokens_per_s: float
    efficiency: float
    hours: float
    hours_p90: float
    preemptions: float

    @property
    def step_s(self) -> float:
        """Mean seconds of a step."""
        return sum(self.parts.values())

    @property
    def bound(self) -> str:
        """The longest component of a step."""
        return max(self.parts, key=lambda name: self.parts[name])


def scaled_runs(
    model: TrainingModel, workers: Sequence[int], slowdowns: SlowdownsConfig, *, seed: int, trials: int = _TRIALS
) -> list[ScaledRun]:
    """Simulate a run with each number of workers; all have the same stragglers, so that they can be compared.

    Raises:
        InputError: machines go so often that the run would not end.
    """
    rng = np.random.default_rng(seed)
    delays = rng.exponential(slowdowns.straggler_mean, size=(min(model.steps, _SIMULATED_STEPS), max(workers)))
    runs = []
    for count in workers:
        parts = model.step_parts(count, float(delays[:, :count].max(axis=1).mean()))
        step_s, machines = sum(parts.values()), model.machines(count)
        work_s, interval_s = model.steps * step_s, model.checkpoint_every_steps * step_s
        trial_rng = np.random.default_rng([seed, count])
        seconds, preemptions = run_times(
            work_s, interval_s, machines=machines, slowdowns=slowdowns, trials=trials, rng=trial_rng
        )
        rate = model.steps * model.tokens / float(seconds.mean())
        runs.append(
            ScaledRun(
                workers=count,
                machines=machines,
                parts=parts,
                tokens_per_s=rate,
                efficiency=rate * model.compute_s / (count * model.tokens),
                hours=float(seconds.mean()) / 3600,
                hours_p90=float(np.quantile(seconds, 0.9)) / 3600,
                preemptions=float(preemptions.mean()),
            )
        )
    return runs


def run_times(
    work_s: float,
    interval_s: float,
    *,
    machines: int,
    slowdowns: SlowdownsConfig,
    trials: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return seconds and preemptions of simulated runs, (trials,) each; preemptions are a Poisson process.

    Args:
        work_s: time of the run without preemptions.
        interval_s: time of it between two checkpoints.

    Raises:
        InputError: preemptions are so frequent that the run would not end.
    """
    seconds, counts = np.full(trials, work_s), np.zeros(trials, np.int64)
    per_second = slowdowns.preemptions_per_machine_hour * machines / 3600
    expected, between = work_s * per_second, 0.0 if slowdowns.preemption_notice else interval_s * per_second
    if expected > _MOST_PREEMPTIONS or between > _MOST_FAILURES:
        raise InputError(
            f"slowdowns.preemptions_per_machine_hour: {expected:,.0f} preemptions of a run, {between:,.1f} between "
            "two checkpoints, so that it would not end; lower it, or intervals.checkpoint_every_steps of distill"
        )
    for trial in range(trials if per_second else 0):
        done = 0.0
        while (gap := rng.exponential(1 / per_second)) < work_s - done:
            reached = done + gap
            done = reached if slowdowns.preemption_notice else math.floor(reached / interval_s) * interval_s
            seconds[trial] += slowdowns.restart_s + reached - done
            counts[trial] += 1
    return seconds, counts


def training_model(config: PlanConfig, training: TrainingEstimate, machine: Machine) -> TrainingModel:
    """Return the model of the distillation; a stated or measured rate takes precedence over the table.

    Such a rate is that of whole steps of one worker, so its update and its own mean delay are subtracted.

    Raises:
        InputError: a precision that the device lacks, or no rates in the measured run.
    """
    device, recipe = machine.device, training.config
    memory_rate, update_bytes = device.memory_gb_per_s * _GB, float(training.parameters * _UPDATE_BYTES)
    rate, measured_run_dir = config.estimate.tokens_per_s, config.estimate.measured_run_dir
    if rate is None and measured_run_dir is not None:
        rate = measured_tokens_per_s(measured_run_dir)
    if rate is None:
        compute_s = training.flops_per_step / flops_per_s(config, training, device)
    else:
        step_s = training.tokens_per_step / rate
        update_bytes = min(update_bytes, 0.5 * step_s * memory_rate)
        compute_s = (step_s - update_bytes / memory_rate) / (1 + config.slowdowns.straggler_mean)
    threads = recipe.scaling.cpus_per_worker
    return TrainingModel(
        steps=training.steps,
        examples=recipe.batch_size,
        tokens=training.tokens_per_step,
        micro_batch_size=recipe.micro_batch_size,
        compute_s=compute_s,
        backward_share=training.backward_share,
        gradient_bytes=float(training.parameters * _GRADIENT_BYTES),
        update_bytes=update_bytes,
        checkpoint_every_steps=recipe.intervals.checkpoint_every_steps,
        checkpoint_s=training.parameters * SAVED_BYTES / _COPY_BYTES_PER_S,
        scores_s=compute_s * training.heldout_flops / training.flops_per_step,
        score_passes=heldout_passes(training) if training.heldout_flops else 0,
        workers_per_machine=machine.count if device.is_gpu else max(1, machine.cores // threads),
        micro_step_floor_s=MICRO_STEP_FLOOR_S if rate is None else 0.0,
        memory_rate=memory_rate,
        link_rate=device.link_gb_per_s * _GB,
        network_rate=machine.network_gbit_per_s * _GB / _BITS,
        cores=None if device.is_gpu else float(machine.cores),
        threads=threads,
        max_machines=None if device.is_gpu else config.cluster.max_machines,
    )


def training_runs(
    config: PlanConfig,
    training: TrainingEstimate,
    workers: Sequence[int],
    machine: Machine | None = None,
    *,
    cores: float | None = None,
) -> list[ScaledRun]:
    """Simulate the distillation with each number of workers.

    Args:
        machine: instead of the one that the recipe names.
        cores: that one machine of CPUs really gives its workers; all that it has if left out.

    Raises:
        InputError: an unknown machine, or see `training_model` and `run_times`.
    """
    machine = machine or find_machine(config.cluster.machine, "cluster.machine")
    model = training_model(config, training, machine)
    if cores is not None:
        model = dataclasses.replace(model, cores=cores)
    return scaled_runs(model, workers, config.slowdowns, seed=config.seed)
