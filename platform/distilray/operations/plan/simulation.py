"""Simulate training with different numbers of workers: parts of a step, stragglers, preemptions, total time."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.config.plan import PlanConfig, SlowdownsConfig
from distilray.distillation.cost import SAVED_BYTES, measured_tokens_per_s
from distilray.errors import InputError
from distilray.operations.plan.machines import Machine, find_machine
from distilray.operations.plan.workload import TrainingEstimate, heldout_passes, worker_flops_per_s

STEP_PARTS = ("compute", "stragglers", "all-reduce", "update", "input", "checkpoints", "evaluation")
# Python and torch need 9.5 ms to launch all kernels of a micro-step (measured on one core of a Xeon from 2023, with 6
# student and 12 teacher layers and hardly any arithmetic). The GPU runs the kernels while others are being launched, so
# a micro-step takes at least this long.
MICRO_STEP_FLOOR_S = 0.0095
HOP_LATENCY_US = 20.0  # per hop of a ring all-reduce
OVERLAP = 0.8  # largest fraction of an all-reduce that the last backward pass can hide
_GRADIENT_BYTES = 4  # per parameter (fp32)
_UPDATE_BYTES = 28  # per parameter: AdamW reads weight, gradient and two moments, and writes all but the gradient
_INPUT_TOKENS_PER_S = 9.9e6  # per core, with the slower kind of masks at 512 tokens (docs/benchmarks.md)
_COPY_BYTES_PER_S = 6e9  # copying a checkpoint to host memory: 0.8 GB in 0.13 s (docs/benchmarks.md)
_SIMULATED_STEPS, _TRIALS = 1000, 200  # steps with random stragglers; runs with random preemptions
_MAX_PREEMPTIONS = 5_000  # per run
_MAX_FAILURES = 3.0  # expected preemptions between two checkpoints
_GB, _BITS = 1e9, 8


@dataclass(frozen=True)
class TrainingModel:
    """Performance model of a training run. Rates are in bytes or tokens per second.

    Attributes:
        examples, tokens: number per step, summed over all workers.
        micro_batch_size: maximum number of examples in one forward pass of a worker.
        compute_s: time of a step on a single worker with its own device and without slowdowns.
        backward_share: fraction of `compute_s` in the backward pass.
        gradient_bytes: size of an all-reduce.
        update_bytes: bytes that the optimizer of each worker reads and writes.
        checkpoint_s: time for which a checkpoint pauses training; the file is written in the background.
        heldout_s: time of one held-out evaluation on a single worker; heldout_evaluations: their number per run.
        micro_step_floor_s: minimum time of a micro-step, in which its kernels are launched.
        memory_rate: memory bandwidth of the device or of all cores of a worker.
        link_rate: bandwidth between devices of one machine; network_rate: between machines.
        latency_s: latency of one hop in the ring.
        overlap: largest fraction of an all-reduce that the last backward pass can hide.
        input_rate: tokens that the input pipeline of a worker prepares in parallel with the steps.
        cores: cores of a machine, which its workers share; None if each worker has its own GPU.
        threads: threads of a worker.
        max_machines: maximum number of machines; further workers share their cores.
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
    heldout_s: float
    heldout_evaluations: int
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
        needed = math.ceil(workers / self.workers_per_machine)
        return needed if self.max_machines is None else min(needed, self.max_machines)

    def contention(self, workers: int) -> float:
        """Return the slowdown from sharing cores: threads divided by cores of a machine, but at least 1."""
        if self.cores is None:
            return 1.0
        return max(1.0, math.ceil(workers / self.machines(workers)) * self.threads / self.cores)

    def all_reduce_s(self, workers: int) -> float:
        """Return the seconds of a ring all-reduce (Patarasuk and Yuan 2009).

        Each worker sends 2 (n - 1) / n of the bytes in 2 (n - 1) hops. The slowest hop limits the bandwidth; with
        several machines, that includes the network.
        """
        if workers == 1:
            return 0.0
        rates = [self.link_rate] if self.workers_per_machine > 1 else []
        rates += [self.network_rate] if self.machines(workers) > 1 else []
        size = self.gradient_bytes
        return 2 * (workers - 1) / workers * size / min(rates) + 2 * (workers - 1) * self.latency_s

    def step_parts(self, workers: int, delay: float) -> dict[str, float]:
        """Return the mean seconds of each part of a step, including its share of the work between steps.

        Args:
            delay: delay of the slowest worker as a fraction of its compute time.
        """
        contention = self.contention(workers)
        micro_steps = math.ceil(self.examples / (workers * self.micro_batch_size))
        micro_s = max(self.compute_s * contention / (workers * micro_steps), self.micro_step_floor_s)
        compute, all_reduce = micro_steps * micro_s, self.all_reduce_s(workers)
        return {
            "compute": compute,
            "stragglers": compute * delay,
            "all-reduce": all_reduce - min(self.overlap * all_reduce, self.backward_share * micro_s),
            "update": self.update_bytes / self.memory_rate * contention,
            "input": max(0.0, self.tokens / workers / self.input_rate - compute),
            "checkpoints": self.checkpoint_s / self.checkpoint_every_steps,
            "evaluation": self.heldout_evaluations * (self.heldout_s * contention / workers) / self.steps,
        }


@dataclass(frozen=True)
class ScaledRun:
    """Simulation result for one number of workers.

    Attributes:
        parts: mean seconds of each part of a step, by the names in `STEP_PARTS`.
        efficiency: tokens per second relative to ideal scaling without slowdowns.
        hours: mean over the simulated runs; hours_p90: their 90th percentile.
        preemptions: mean number of preemptions per run.
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
        """Mean duration of a step."""
        return sum(self.parts.values())

    @property
    def bound(self) -> str:
        """Name of the longest part of a step."""
        return max(self.parts, key=lambda name: self.parts[name])


def scaled_runs(
    model: TrainingModel, workers: Sequence[int], slowdowns: SlowdownsConfig, *, seed: int, trials: int = _TRIALS
) -> list[ScaledRun]:
    """Simulate a run with each number of workers, using the same random stragglers to make them comparable.

    Raises:
        InputError: preemptions are so frequent that the run would never end.
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
    """Simulate runs whose preemptions form a Poisson process; return their seconds and numbers of preemptions.

    Args:
        work_s: duration of the run without preemptions.
        interval_s: time between two checkpoints.

    Returns:
        Two arrays of shape (trials,).

    Raises:
        InputError: preemptions are so frequent that the run would never end.
    """
    seconds, counts = np.full(trials, work_s), np.zeros(trials, np.int64)
    per_second = slowdowns.preemptions_per_machine_hour * machines / 3600
    expected, failures = work_s * per_second, 0.0 if slowdowns.preemption_notice else interval_s * per_second
    if expected > _MAX_PREEMPTIONS or failures > _MAX_FAILURES:
        raise InputError(
            f"slowdowns.preemptions_per_machine_hour: {expected:,.0f} preemptions per run, {failures:,.1f} between two "
            "checkpoints, so the run would not end; lower it, or intervals.checkpoint_every_steps of distill"
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
    """Return the performance model of the distillation.

    A throughput from the recipe or from a measured run takes precedence over the MFU in the table. It includes the
    optimizer and the mean delay of a worker, which are therefore subtracted.

    Raises:
        InputError: the device does not support the precision, or the measured run has no rates.
    """
    device, recipe = machine.device, training.config
    memory_rate, update_bytes = device.memory_gb_per_s * _GB, float(training.parameters * _UPDATE_BYTES)
    rate, measured_run_dir = config.estimate.tokens_per_s, config.estimate.measured_run_dir
    if rate is None and measured_run_dir is not None:
        rate = measured_tokens_per_s(measured_run_dir)
    if rate is None:
        compute_s = training.flops_per_step / worker_flops_per_s(config, training, device)
    else:
        step_s = training.tokens_per_step / rate
        update_bytes = min(update_bytes, 0.5 * step_s * memory_rate)
        compute_s = (step_s - update_bytes / memory_rate) / (1 + config.slowdowns.straggler_mean)
    threads = recipe.scaling.cpus_per_worker
    return TrainingModel(
        steps=training.steps,
        examples=recipe.batch_size,
        tokens=training.tokens_per_step,
        micro_batch_size=recipe.max_rows(math.ceil(training.tokens_per_step / recipe.batch_size)),
        compute_s=compute_s,
        backward_share=training.backward_share,
        gradient_bytes=float(training.parameters * _GRADIENT_BYTES),
        update_bytes=update_bytes,
        checkpoint_every_steps=recipe.intervals.checkpoint_every_steps,
        checkpoint_s=training.parameters * SAVED_BYTES / _COPY_BYTES_PER_S,
        heldout_s=compute_s * training.heldout_flops / training.flops_per_step,
        heldout_evaluations=heldout_passes(training) if training.heldout_flops else 0,
        workers_per_machine=machine.num_devices if device.is_gpu else max(1, machine.cores // threads),
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
        machine: default: the machine of the recipe.
        cores: cores of a CPU machine that are available to its workers; default: all.

    Raises:
        InputError: the machine is unknown; see also `training_model` and `run_times`.
    """
    machine = machine or find_machine(config.cluster.machine, "cluster.machine")
    model = training_model(config, training, machine)
    if cores is not None:
        model = dataclasses.replace(model, cores=cores)
    return scaled_runs(model, workers, config.slowdowns, seed=config.seed)
