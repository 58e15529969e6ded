"""Comparison of the model with a published run: DistilBERT, 90 hours on 8 V100 (Sanh et al. 2019)."""

from dataclasses import dataclass

from distilray.config.distillation import DistillConfig
from distilray.config.operations.capacity import (
    ClusterConfig,
    ModelShapeConfig,
    PlanConfig,
    Precision,
    StationRecipeConfig,
    StationsConfig,
    TextConfig,
)
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.operations.plan.devices import DEVICES
from distilray.operations.plan.rates import training_runs
from distilray.operations.plan.workload import Training, examples_of, training_of

NAME = "DistilBERT, 8 x V100"
PUBLISHED_HOURS = 90.0
WORKERS = 8
_MACHINE = "p3.16xlarge"
_DEVICE = DEVICES["V100"]


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


def original_training(precision: Precision) -> Training:
    """Return the run with the defaults of its trainer: 3 epochs, 5 sequences per GPU, 50 of these a step, no pairs.

    The paper says neither epochs nor precision. The trainer's own default is fp32; its --fp16 is off. How long its
    sequences were is not known; full ones make the run 5% longer than those of 128 tokens.
    """
    shards = EncodeCorpusConfig(run_dir="-", corpus_dir="-", tokenizer_dir="-", mode="paper", heldout_fraction=0.0)
    recipe = DistillConfig(
        run_dir="-",
        shards_dir="-",
        teacher_dir="-",
        epochs=3.0,
        batch_size=2000,
        micro_batch_size=5,
        precision=precision,
    )
    return training_of(examples_of(TextConfig(), shards), recipe, ModelShapeConfig())


def reference(precision: Precision, mfu: float | None = None) -> Reference:
    """Return the predicted hours of that run.

    Args:
        mfu: instead of the table's.
    """
    training, nowhere = original_training(precision), StationRecipeConfig(path="-")
    config = PlanConfig(
        run_dir="-",
        stations=StationsConfig(encode_corpus=nowhere, distill=nowhere),
        cluster=ClusterConfig(machine=_MACHINE, mfu=mfu),
    )
    (run,) = training_runs(config, training, [WORKERS])
    peak = _DEVICE.peak(precision)
    assert peak is not None
    return Reference(
        precision=precision,
        predicted_hours=run.hours,
        mfu=mfu or _DEVICE.mfu[precision],
        implied_mfu=training.flops_per_step * training.steps / (PUBLISHED_HOURS * 3600 * WORKERS * peak),
    )


def references() -> list[Reference]:
    """Return the predictions for both precisions of the trainer."""
    return [reference("fp32"), reference("fp16")]
