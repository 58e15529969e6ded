"""Assumptions and warnings of a plan, and the predicted duration of the published DistilBERT run."""

from dataclasses import dataclass

from distilray.config.base import Precision
from distilray.config.distillation import DistillConfig
from distilray.config.plan import (
    ClusterConfig,
    ModelShapeConfig,
    PlanConfig,
    StageRecipeConfig,
    StageRecipesConfig,
    TextConfig,
)
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.operations.plan.machines import DEVICES, find_machine
from distilray.operations.plan.simulation import HOP_LATENCY_US, MICRO_STEP_FLOOR_S, OVERLAP, training_runs
from distilray.operations.plan.workload import TrainingEstimate, device_speed, estimate_examples, estimate_training

# Sanh et al. 2019.
PUBLISHED_RUN, PUBLISHED_HOURS = "DistilBERT, 8 x V100", 90.0
_MACHINE, _WORKERS, _DEVICE = "p3.16xlarge", 8, DEVICES["V100"]


def list_assumptions(config: PlanConfig, training: TrainingEstimate) -> list[str]:
    """Return the assumptions as sentences, most important first."""
    machine, slowdowns = find_machine(config.cluster.machine, "cluster.machine"), config.slowdowns
    link, network = machine.device.link_gb_per_s, machine.network_gbit_per_s / 8
    repeated = "no steps" if slowdowns.preemption_notice else "the steps since the last checkpoint"
    return [
        f"Throughput per worker: {_describe_throughput(config, training)}.",
        f"Text: {config.text.wikipedia_words:,} words of Wikipedia and {config.text.book_words:,} of books, "
        f"{config.text.tokens_per_word:g} tokens per word; number and lengths of the examples as on the sample.",
        f"All-reduce: one ring per step, {link:g} GB/s between devices of a machine (assumed), {network:g} GB/s "
        f"between machines, {HOP_LATENCY_US:g} us per hop; the last backward pass can hide up to {OVERLAP:.0%} of it.",
        f"Stragglers: each worker is delayed by {slowdowns.straggler_mean:.1%} of its time on average, exponentially "
        "distributed; a step waits for the slowest worker.",
        f"Preemptions: {slowdowns.preemptions_per_machine_hour:g} per machine and hour; each takes "
        f"{slowdowns.restart_s:g} s and repeats {repeated}. The cost of waiting for a new machine is not included.",
        f"A micro-step on a GPU takes at least {MICRO_STEP_FLOOR_S * 1e3:g} ms, the time to launch its kernels.",
        "Workers on CPUs share the cores of a machine equally.",
        "Whole machines are billed from the first to the last step. Not included: starting the cluster and Ray, data "
        "transfer, disks. Prices: AWS, us-east-1, June 2025 or later, not updated automatically.",
        "Data stages: MB/s and tokens/s per core as in docs/benchmarks.md, without duplicate detection and without the "
        "disk space of the dump. Fine-tuning: MFU measured or projected in the same way; lengths estimated for all "
        "tasks but CoLA, SST-2 and RTE.",
        "The paper states neither the epochs nor the precision of its run; 3 and fp32 are the defaults of its trainer.",
    ]


def _describe_throughput(config: PlanConfig, training: TrainingEstimate) -> str:
    device, estimate = find_machine(config.cluster.machine, "cluster.machine").device, config.estimate
    if estimate.tokens_per_s is not None:
        return f"{estimate.tokens_per_s:,.0f} tokens/s, from the recipe"
    if estimate.measured_run_dir is not None:
        return f"measured in {estimate.measured_run_dir}, including the time that its workers waited for each other"
    speed = device_speed(config, training, device)
    peak = f"{speed.peak / 1e12:,.4g} TFLOPs/s of the {device.name} in {speed.precision}"
    return f"{speed.mfu:.0%} of the {peak} ({speed.source})"


def list_warnings(config: PlanConfig, training: TrainingEstimate) -> list[str]:
    """Return warnings about insufficient memory and uncertain throughput."""
    device, estimate = find_machine(config.cluster.machine, "cluster.machine").device, config.estimate
    warnings = []
    if device.is_gpu and training.worker_gb > device.memory_gb:
        warnings.append(
            f"a worker needs about {training.worker_gb:.1f} GB, but the {device.name} has {device.memory_gb:g}: "
            "lower micro_batch_size in the distill recipe, or set activation_checkpointing"
        )
    is_projected = device_speed(config, training, device).is_projected
    if is_projected and estimate.tokens_per_s is None and estimate.measured_run_dir is None:
        warnings.append(
            f"the throughput of the {device.name} is a projection that nobody has checked on one: measure it in a run "
            "of a hundred steps and set estimate.measured_run_dir"
        )
    return warnings


@dataclass(frozen=True)
class PublishedRunPrediction:
    """Predicted duration of the published run.

    Attributes:
        mfu: assumed MFU of the V100 in this precision.
        implied_mfu: MFU with which the prediction would equal the published time.
    """

    precision: Precision
    predicted_hours: float
    mfu: float
    implied_mfu: float

    @property
    def ratio(self) -> float:
        """Predicted divided by published hours."""
        return self.predicted_hours / PUBLISHED_HOURS


def published_training(precision: Precision) -> TrainingEstimate:
    """Return the published run with the defaults of its trainer.

    These are 3 epochs, micro-batches of 5 sequences per GPU, 50 of them per step, no segment pairs and fp32 (--fp16 is
    off). The paper does not state the epochs, the precision or the sequence length; sequences of full length make the
    run 5% longer than those of 128 tokens.
    """
    shards = EncodeCorpusConfig(run_dir="-", corpus_dir="-", tokenizer_dir="-", mode="paper", heldout_fraction=0.0)
    batches = {"epochs": 3.0, "batch_size": 2000, "micro_batch_size": 5, "precision": precision}
    recipe = DistillConfig.model_validate({"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", **batches})
    return estimate_training(estimate_examples(TextConfig(), shards), recipe, ModelShapeConfig())


def predict_published_run(precision: Precision, mfu: float | None = None) -> PublishedRunPrediction:
    """Predict the duration of the published run; `mfu` overrides the value in the table."""
    training, no_recipe = published_training(precision), StageRecipeConfig(path="-")
    stages = StageRecipesConfig(encode_corpus=no_recipe, distill=no_recipe)
    config = PlanConfig(run_dir="-", stages=stages, cluster=ClusterConfig(machine=_MACHINE, mfu=mfu))
    (run,) = training_runs(config, training, [_WORKERS])
    peak = _DEVICE.peak(precision)
    assert peak is not None
    implied = training.flops_per_step * training.steps / (PUBLISHED_HOURS * 3600 * _WORKERS * peak)
    return PublishedRunPrediction(precision, run.hours, mfu or _DEVICE.mfu[precision], implied)
