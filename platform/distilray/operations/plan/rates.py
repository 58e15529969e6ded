"""Training speed of the workers of a plan: the arguments of `scaling` from a training and its machine."""

import dataclasses
from collections.abc import Sequence

from distilray.config.operations.capacity import PlanConfig, Precision
from distilray.distillation.planning.cost import SAVED_BYTES, rate_of_run
from distilray.errors import InputError
from distilray.operations.plan.devices import Device, Machine, machine_named
from distilray.operations.plan.scaling import Placement, Preemption, Rhythm, ScaledRun, StepWork, scaled_runs
from distilray.operations.plan.workload import Training, scored_passes

# Python and torch take 9.5 ms to start all kernels of a micro-step (student and teacher of 6 and 12 layers, next to no
# arithmetic, one core of a Xeon of 2023). On a GPU they run beside the kernels; so much a micro-step takes at least.
MICRO_STEP_FLOOR_S = 0.0095
_GRADIENT_BYTES = 4  # of a parameter: fp32
_UPDATE_BYTES = 28  # of a parameter: AdamW reads it, its gradient and two moments, and writes three of them
_INPUT_TOKENS_PER_S = 9.9e6  # of a core: the slower of the two kinds of masks at 512 tokens (docs/benchmarks.md)
_COPY_BYTES_PER_S = 6e9  # of a checkpoint to the host's memory: 0.8 GB in 0.13 s (docs/benchmarks.md)
_GB, _BITS = 1e9, 8
HOP_LATENCY_US = 20.0  # of the ring of an all-reduce
OVERLAP = 0.8  # of an all-reduce, behind the last backward pass
_SIMULATED_STEPS, _TRIALS = 1000, 200  # whose stragglers are drawn; runs with drawn preemptions


def precision_of(training: Training, device: Device) -> Precision:
    """Return the precision of the recipe on a device: `auto` is bf16 if the device supports it, else fp32.

    Raises:
        InputError: the device does not compute in it.
    """
    asked = training.config.precision
    found: Precision = asked if asked != "auto" else "bf16" if device.peak("bf16") else "fp32"
    if device.peak(found) is None:
        raise InputError(f"precision: {device.name} does not compute in {found}; set another in the distill recipe")
    return found


def flops_per_s(config: PlanConfig, training: Training, device: Device) -> float:
    """Return the flops per second of one worker: peak x MFU of the table, with CPUs x its cores."""
    precision = precision_of(training, device)
    peak = device.peak(precision)
    assert peak is not None
    mfu = config.cluster.mfu or device.mfu[precision]
    return peak * mfu * (1 if device.is_gpu else training.config.scaling.cpus_per_worker)


def step_work(config: PlanConfig, training: Training, device: Device, update_rate: float) -> StepWork:
    """Return the work of an optimizer step; a stated or measured rate takes precedence over the table.

    Such a rate is that of whole steps of one worker, so its update and its own mean delay are taken out of it.

    Raises:
        InputError: the run that was to be measured has no rates.
    """
    update_bytes = float(training.parameters * _UPDATE_BYTES)
    estimate = config.estimate
    rate = estimate.tokens_per_s
    if rate is None and estimate.measured_in is not None:
        rate = rate_of_run(estimate.measured_in)
    if rate is None:
        compute_s = training.flops_per_step / flops_per_s(config, training, device)
    else:
        step_s = training.tokens_per_step / rate
        update_bytes = min(update_bytes, 0.5 * step_s * update_rate)
        compute_s = (step_s - update_bytes / update_rate) / (1 + config.disturbance.straggler_mean)
    return StepWork(
        examples=training.config.batch_size,
        tokens=training.tokens_per_step,
        micro_batch_size=training.config.micro_batch_size,
        compute_s=compute_s,
        backward_share=training.backward_share,
        gradient_bytes=float(training.parameters * _GRADIENT_BYTES),
        update_bytes=update_bytes,
    )


def placement(config: PlanConfig, training: Training, machine: Machine) -> Placement:
    """Return the placement of the workers: one on each GPU, or as many per machine as its cores have threads for."""
    device, scaling = machine.device, training.config.scaling
    has_rate = config.estimate.tokens_per_s is not None or config.estimate.measured_in is not None
    return Placement(
        workers_per_machine=machine.count if device.is_gpu else max(1, machine.cores // scaling.cpus_per_worker),
        most_machines=None if device.is_gpu else config.cluster.most_machines,
        micro_step_floor_s=0.0 if has_rate else MICRO_STEP_FLOOR_S,
        memory_rate=device.memory_gb_per_s * _GB,
        link_rate=device.link_gb_per_s * _GB,
        network_rate=machine.network_gbit_per_s * _GB / _BITS,
        latency_s=HOP_LATENCY_US * 1e-6,
        overlap=OVERLAP,
        input_rate=_INPUT_TOKENS_PER_S,
        cores=None if device.is_gpu else float(machine.cores),
        threads=scaling.cpus_per_worker,
    )


def training_runs(
    config: PlanConfig,
    training: Training,
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
        InputError: an unknown machine, a precision that it lacks, no rates where they were to be measured.
    """
    machine = machine or machine_named(config.cluster.machine, "cluster.machine")
    place = placement(config, training, machine)
    if cores is not None:
        place = dataclasses.replace(place, cores=cores)
    work = step_work(config, training, machine.device, place.memory_rate)
    given = config.disturbance
    return scaled_runs(
        work,
        place,
        Rhythm(
            checkpoint_every_steps=training.config.rhythm.checkpoint_every_steps,
            checkpoint_s=training.parameters * SAVED_BYTES / _COPY_BYTES_PER_S,
            scores_s=work.compute_s * training.heldout_flops / training.flops_per_step,
            score_passes=scored_passes(training) if training.heldout_flops else 0,
        ),
        steps=training.steps,
        workers=workers,
        straggler_mean=given.straggler_mean,
        preemption=Preemption(given.preemptions_per_machine_hour, given.restart_s, given.has_notice),
        simulated_steps=_SIMULATED_STEPS,
        trials=_TRIALS,
        seed=config.seed,
    )
