"""Assumptions and warnings of a plan."""

from distilray.config.operations.capacity import PlanConfig
from distilray.operations.plan.devices import machine_named
from distilray.operations.plan.rates import HOP_LATENCY_US, MICRO_STEP_FLOOR_S, OVERLAP, precision_of
from distilray.operations.plan.workload import Training


def assumptions_of(config: PlanConfig, training: Training) -> list[str]:
    """Return the assumptions as sentences, the most important first."""
    machine = machine_named(config.cluster.machine, "cluster.machine")
    link, network, given = machine.device.link_gb_per_s, machine.network_gbit_per_s / 8, config.disturbance
    repeated = "nothing, for the run saves at the notice" if given.has_notice else "the steps since its checkpoint"
    return [
        f"Rate of a worker: {_rate(config, training)}.",
        f"Text: {config.text.wikipedia_words:,} words of a wiki and {config.text.book_words:,} of books, "
        f"{config.text.tokens_per_word:g} tokens each; growth and lengths of examples as on the sample.",
        f"All-reduce: a ring, once a step, {link:g} GB/s between devices of a machine (an assumption), {network:g} "
        f"GB/s between machines, {HOP_LATENCY_US:g} us for a hop; {OVERLAP:.0%} of it may hide behind the "
        "last backward pass.",
        f"Stragglers: each worker is late by {given.straggler_mean:.1%} of its time on average, exponentially; a step "
        "waits for the last one.",
        f"Preemptions: {given.preemptions_per_machine_hour:g} for each machine and hour; one costs "
        f"{given.restart_s:g} s and repeats {repeated}. Money for the time until a machine is back is left out.",
        f"A micro-step takes {MICRO_STEP_FLOOR_S * 1e3:g} ms on a GPU at least, to launch its kernels.",
        "Workers of CPUs share the cores of a machine in equal parts.",
        "Machines are paid whole, from the first to the last step; the start of a cluster and of Ray, the transfer of "
        "files and the price of disks are left out. Prices: AWS, us-east-1, of June 2025 or later, not looked up anew.",
        "Data stations: MB/s and tokens/s of a core as in docs/benchmarks.md, duplicates not counted, nor the dump on "
        "the disk; fine-tunings at the table's rate, with estimated lengths of all tasks but CoLA, SST-2 and RTE.",
        "Of the paper's run neither the epochs nor the precision are known: 3 and fp32 are its trainer's defaults.",
    ]


def warnings_of(config: PlanConfig, training: Training) -> list[str]:
    """Return what does not fit or is uncertain."""
    device = machine_named(config.cluster.machine, "cluster.machine").device
    found = []
    if device.is_gpu and training.worker_gb > device.memory_gb:
        found.append(
            f"a worker needs about {training.worker_gb:.1f} GB, the {device.name} has {device.memory_gb:g}: "
            "lower micro_batch_size of the distill recipe, or set activation_checkpointing"
        )
    has_rate = config.estimate.tokens_per_s is not None or config.estimate.measured_in is not None
    if not has_rate and config.cluster.mfu is None and precision_of(training, device) not in device.measured:
        found.append(
            f"the rate of the {device.name} is an assumption, good to a factor of two: measure a hundred steps and set "
            "estimate.measured_in"
        )
    return found


def _rate(config: PlanConfig, training: Training) -> str:
    device, estimate = machine_named(config.cluster.machine, "cluster.machine").device, config.estimate
    if estimate.tokens_per_s is not None:
        return f"{estimate.tokens_per_s:,.0f} tokens/s, stated"
    if estimate.measured_in is not None:
        return f"measured in {estimate.measured_in}; what its workers waited for each other counts as their work"
    precision = precision_of(training, device)
    peak = device.peak(precision)
    assert peak is not None
    mfu, source = (
        (config.cluster.mfu, "stated") if config.cluster.mfu else (device.mfu[precision], device.source_of(precision))
    )
    return f"{mfu:.0%} of the {peak / 1e12:,.4g} TF/s of the {device.name} in {precision} ({source})"
