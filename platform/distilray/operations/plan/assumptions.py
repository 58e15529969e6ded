"""Assumptions and warnings of a plan, and the model's prediction for a published run."""

from dataclasses import dataclass

from distilray.config.capacity import (
    ClusterConfig,
    ModelShapeConfig,
    PlanConfig,
    Precision,
    StageRecipeConfig,
    StageRecipesConfig,
    TextConfig,
)
from distilray.config.distillation import DistillConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.operations.plan.machines import DEVICES, find_machine
from distilray.operations.plan.simulation import HOP_LATENCY_US, MICRO_STEP_FLOOR_S, OVERLAP, training_runs
from distilray.operations.plan.workload import TrainingEstimate, estimate_examples, estimate_training, resolve_precision

# DistilBERT: 90 hours on 8 V100 (Sanh et al. 2019).
NAME, PUBLISHED_HOURS = "DistilBERT, 8 x V100", 90.0
_MACHINE, _WORKERS, _DEVICE = "p3.16xlarge", 8, DEVICES["V100"]


def assumptions_of(config: PlanConfig, training: TrainingEstimate) -> list[str]:
    """Return the assumptions as sentences, the most important first."""
    machine, slowdowns = find_machine(config.cluster.machine, "cluster.machine"), config.slowdowns
    link, network = machine.device.link_gb_per_s, machine.network_gbit_per_s / 8
    repeated = (
        "nothing, for the run saves at the notice" if slowdowns.preemption_notice else "the steps since its checkpoint"
    )
    return [
        f"Rate of a worker: {_rate(config, training)}.",
        f"Text: {config.text.wikipedia_words:,} words of a wiki and {config.text.book_words:,} of books, "
        f"{config.text.tokens_per_word:g} tokens each; growth and lengths of examples as on the sample.",
        f"All-reduce: a ring, once a step, {link:g} GB/s between devices of a machine (an assumption), {network:g} "
        f"GB/s between machines, {HOP_LATENCY_US:g} us for a hop; {OVERLAP:.0%} of it may hide behind the "
        "last backward pass.",
        f"Stragglers: each worker is late by {slowdowns.straggler_mean:.1%} of its time on average, exponentially; a "
        "step waits for the last one.",
        f"Preemptions: {slowdowns.preemptions_per_machine_hour:g} for each machine and hour; one costs "
        f"{slowdowns.restart_s:g} s and repeats {repeated}. Money for the time until a machine is back is left out.",
        f"A micro-step takes {MICRO_STEP_FLOOR_S * 1e3:g} ms on a GPU at least, to launch its kernels.",
        "Workers of CPUs share the cores of a machine in equal parts.",
        "Machines are paid whole, from the first to the last step; the start of a cluster and of Ray, the transfer of "
        "files and the price of disks are left out. Prices: AWS, us-east-1, of June 2025 or later, not looked up anew.",
        "Data stations: MB/s and tokens/s of a core as in docs/benchmarks.md, duplicates not counted, nor the dump on "
        "the disk; fine-tunings at the table's rate, with estimated lengths of all tasks but CoLA, SST-2 and RTE.",
        "Of the paper's run neither the epochs nor the precision are known: 3 and fp32 are its trainer's defaults.",
    ]


def _rate(config: PlanConfig, training: TrainingEstimate) -> str:
    device, estimate = find_machine(config.cluster.machine, "cluster.machine").device, config.estimate
    if estimate.tokens_per_s is not None:
        return f"{estimate.tokens_per_s:,.0f} tokens/s, stated"
    if estimate.measured_run_dir is not None:
        return f"measured in {estimate.measured_run_dir}; what its workers waited for each other counts as their work"
    precision = resolve_precision(training, device)
    peak = device.peak(precision)
    assert peak is not None
    mfu, source = device.mfu[precision], device.source_of(precision)
    if config.cluster.mfu:
        mfu, source = config.cluster.mfu, "stated"
    return f"{mfu:.0%} of the {peak / 1e12:,.4g} TF/s of the {device.name} in {precision} ({source})"


def warnings_of(config: PlanConfig, training: TrainingEstimate) -> list[str]:
    """Return what does not fit or is uncertain."""
    device, estimate = find_machine(config.cluster.machine, "cluster.machine").device, config.estimate
    warnings = []
    if device.is_gpu and training.worker_gb > device.memory_gb:
        warnings.append(
            f"a worker needs about {training.worker_gb:.1f} GB, the {device.name} has {device.memory_gb:g}: "
            "lower micro_batch_size of the distill recipe, or set activation_checkpointing"
        )
    has_rate = (
        estimate.tokens_per_s is not None or estimate.measured_run_dir is not None or config.cluster.mfu is not None
    )
    if not has_rate and resolve_precision(training, device) not in device.measured:
        warnings.append(
            f"the rate of the {device.name} is an assumption, good to a factor of two: measure a hundred steps and set "
            "estimate.measured_run_dir"
        )
    return warnings


@dataclass(frozen=True)
class Reference:
    """Predicted hours of the published run.

    Attributes:
        mfu: assumed of the V100 in that precision.
        implied_mfu: share of the peak that the flops of the run are in the hours of the paper.
    """

    precision: Precision
    predicted_hours: float
    mfu: float
    implied_mfu: float

    @property
    def ratio(self) -> float:
        """Predicted over published hours."""
        return self.predicted_hours / PUBLISHED_HOURS


def original_training(precision: Precision) -> TrainingEstimate:
    """Return the run with the defaults of its trainer: 3 epochs, 5 sequences per GPU, 50 of these a step, no pairs.

    The paper says neither epochs nor precision. The trainer's own default is fp32; its --fp16 is off. How long its
    sequences were is not known; full ones make the run 5% longer than those of 128 tokens.
    """
    shards = EncodeCorpusConfig(run_dir="-", corpus_dir="-", tokenizer_dir="-", mode="paper", heldout_fraction=0.0)
    batches = {"epochs": 3.0, "batch_size": 2000, "micro_batch_size": 5, "precision": precision}
    recipe = DistillConfig.model_validate({"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", **batches})
    return estimate_training(estimate_examples(TextConfig(), shards), recipe, ModelShapeConfig())


def reference(precision: Precision, mfu: float | None = None) -> Reference:
    """Return the predicted hours of that run, with `mfu` instead of the table's."""
    training, nowhere = original_training(precision), StageRecipeConfig(path="-")
    stages = StageRecipesConfig(encode_corpus=nowhere, distill=nowhere)
    config = PlanConfig(run_dir="-", stages=stages, cluster=ClusterConfig(machine=_MACHINE, mfu=mfu))
    (run,) = training_runs(config, training, [_WORKERS])
    peak = _DEVICE.peak(precision)
    assert peak is not None
    implied = training.flops_per_step * training.steps / (PUBLISHED_HOURS * 3600 * _WORKERS * peak)
    return Reference(precision, run.hours, mfu or _DEVICE.mfu[precision], implied)
