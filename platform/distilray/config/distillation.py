"""Configs of `jobs.train_teacher` and `jobs.distill`.

The defaults are those of the DistilBERT paper and of its training script.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from distilray.config.base import (
    Config,
    Count,
    Fraction,
    FractionBelowOne,
    InputFile,
    InputName,
    ModelRef,
    NonNegative,
    Positive,
    RayJobConfig,
    SeededConfig,
    Shards,
    TeacherCache,
)
from distilray.config.pretraining_data import CacheConfig

Layer = Annotated[int, Field(ge=-1)]
Positions = Literal["all", "masked"]

_WEIGHT_PREFIX = "alpha_"  # prefix of the keys of loss weights
# Annotation of the weights of losses that compare individual layers. They need the teacher itself, because a cache
# contains only its last layer.
_LAYER_WISE = "layer-wise"
LayerWeight = Annotated[NonNegative, _LAYER_WISE]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and linear decay to 0."""

    learning_rate: Positive = 5e-4
    head_learning_rate: Positive | None = Field(
        default=None, description="learning rate of the masked-LM head; default: learning_rate"
    )
    warmup_fraction: Fraction = 0.05
    weight_decay: NonNegative = 0.0
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.98)
    eps: Positive = 1e-6
    max_grad_norm: Positive = 5.0


class LossConfig(Config):
    """Loss weights, temperature, and the positions at which the vocabulary losses are computed.

    Each weight is named after an entry of `distillation.losses.LOSSES`. The three losses of the model card are enabled
    by default; all others are 0. `hidden` and `attention` are the losses of TinyBERT (Jiao et al. 2019, equations 7 to
    9), `values` is that of MiniLM (Wang et al. 2020, equation 3).
    """

    alpha_ce: NonNegative = 5.0
    alpha_mlm: NonNegative = 2.0
    alpha_cos: NonNegative = 1.0
    alpha_mse: NonNegative = Field(default=0.0, description="squared difference of the logits")
    alpha_hidden: LayerWeight = Field(default=0.0, description="squared difference of hidden states, layer by layer")
    alpha_attention: LayerWeight = Field(default=0.0, description="squared difference of attention scores")
    alpha_values: LayerWeight = Field(default=0.0, description="KL divergence of the relations between value vectors")
    temperature: Positive = 2.0
    ce_positions: Positions = Field(
        default="all", description="all: every token, as in the original; masked: masked tokens only, much faster"
    )
    layer_map: Annotated[list[tuple[Layer, Layer]], Field(min_length=1)] | None = Field(
        default=None,
        description="[student layer, teacher layer] pairs of the layer-wise losses, -1 for the embeddings; default: "
        "every student layer with the last of the teacher layers that it replaces",
    )
    reduction: Literal["global", "original"] = Field(
        default="global",
        description="global: mean over the whole step; original: mean of the means of its micro-batches",
    )

    @property
    def alphas(self) -> dict[str, float]:
        """Weights of all losses by name, including zeros."""
        keys = [key for key in type(self).model_fields if key.startswith(_WEIGHT_PREFIX)]
        return {key.removeprefix(_WEIGHT_PREFIX): getattr(self, key) for key in keys}

    @property
    def layer_alphas(self) -> dict[str, float]:
        """Positive weights of the layer-wise losses by name."""
        fields = type(self).model_fields
        return {
            name: alpha
            for name, alpha in self.alphas.items()
            if alpha and _LAYER_WISE in fields[_WEIGHT_PREFIX + name].metadata
        }

    @property
    def compared_positions(self) -> Positions:
        """Positions that need the teacher's vocabulary logits; `masked` if only masked LM uses the vocabulary."""
        return self.ce_positions if self.alpha_ce or self.alpha_mse else "masked"

    @property
    def compares_last_hidden(self) -> bool:
        """True if a loss needs the teacher's last hidden states."""
        return self.alpha_cos > 0

    @model_validator(mode="after")
    def _has_a_loss(self) -> "LossConfig":
        if not any(self.alphas.values()):
            raise ValueError("all loss weights (alpha_*) are 0, so nothing would be learned; set one")
        if self.layer_map and not self.layer_alphas:
            raise ValueError("layer_map: no layer-wise loss is on; set alpha_hidden, alpha_attention or alpha_values")
        if (self.alpha_attention or self.alpha_values) and all(-1 in pair for pair in self.layer_map or [(0, 0)]):
            raise ValueError("layer_map: embeddings (-1) have no attention and no values; add a pair of layers")
        return self


class StudentConfig(Config):
    """The student: by default half of the teacher's layers, initialized from the teacher."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = Field(
        default=None, description="teacher layers to copy; default: half of them, evenly spaced"
    )
    fold_segment_a: bool = Field(default=True, description="add the teacher's segment-A vector to every position")
    initialization: Literal["teacher", "random"] = Field(
        default="teacher", description="random: fresh weights, to measure the effect of initialization"
    )

    @model_validator(mode="after")
    def _folding_needs_the_teacher(self) -> "StudentConfig":
        if self.initialization == "random" and "fold_segment_a" in self.model_fields_set:
            raise ValueError("fold_segment_a: a randomly initialized student copies no weights; remove the key")
        return self


class ScalingConfig(Config):
    """Ray Train workers. They do not affect which examples a step uses."""

    identity: ClassVar[bool] = False
    num_workers: Count = 8
    min_workers: Count | None = Field(
        default=None, description="continue with as few as this many workers while the cluster has no room for all"
    )
    use_gpu: bool = True
    cpus_per_worker: Count = 4

    @model_validator(mode="after")
    def _min_is_at_most_num(self) -> "ScalingConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}; lower it")
        return self


class FaultToleranceConfig(Config):
    """Restarts, skipped steps, hangs and preemptions."""

    identity: ClassVar[bool] = False
    max_failures: Annotated[int, Field(ge=0)] = Field(
        default=3, description="restarts after a worker died; restarts after a preemption are not counted"
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        default=3, description="consecutive steps with a non-finite gradient to skip before the run fails"
    )
    hang_timeout_s: Positive = Field(
        default=600.0, description="time without progress after which a worker is reported and all are restarted"
    )
    preemption_grace_s: NonNegative = Field(
        default=30.0, description="time that Ray Train waits after a preemption notice before it stops the workers"
    )


class IntervalsConfig(Config):
    """Intervals of logging, evaluation and checkpoints, in optimizer steps."""

    identity: ClassVar[bool] = False
    log_every_steps: Count = 50
    evaluate_every_steps: Count = Field(
        default=1000, description="evaluation on held-out examples; there is also one before the first step"
    )
    heldout_examples: Count | None = Field(
        default=None, description="evaluate on the first N held-out examples only; default: all"
    )
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = Field(default=3, description="newest checkpoints to keep, in addition to the best one")
    poll_preemption_every_steps: Count = Field(
        default=1, description="interval at which the workers agree on whether one of their machines will be preempted"
    )


class TrackersConfig(Config):
    """Experiment trackers in addition to `metrics.jsonl` and TensorBoard files, which are always written."""

    identity: ClassVar[bool] = False
    extra: tuple[Literal["mlflow", "wandb"], ...] = ()


class EstimateConfig(Config):
    """Throughput and price for the time and cost in `--dry-run`."""

    identity: ClassVar[bool] = False
    tokens_per_s: Positive | None = Field(default=None, description="throughput of one worker")
    measured_run_dir: Annotated[InputFile, InputName("measured")] | None = Field(
        default=None, description="run folder of the same job, whose metrics contain the throughput of a worker"
    )
    price_per_hour: Positive | None = Field(default=None, description="price of one worker per hour, in any currency")


class TrainingConfig(SeededConfig, RayJobConfig):
    """Settings of both training jobs."""

    shards_dir: Shards = Field(description="run folder of jobs.encode_corpus")
    max_steps: Count | None = Field(default=None, description="optimizer steps; default: determined by epochs")
    epochs: Positive = 3.0
    batch_size: Count = Field(default=2000, description="examples per optimizer step, over all workers")
    micro_batch_size: Count = Field(default=32, description="maximum examples in one forward pass of a worker")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 if the device supports it, else fp32; fp16 uses loss scaling"
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute layers in the backward pass: less memory, a third more computation"
    )
    compile: bool = Field(
        default=False, description="apply torch.compile to the layers; needs a C++ compiler on every machine"
    )
    dropout: FractionBelowOne | None = Field(
        default=None, description="dropout of the trained model; default: from the model's own config"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    scaling: ScalingConfig = ScalingConfig()
    fault_tolerance: FaultToleranceConfig = FaultToleranceConfig()
    trackers: TrackersConfig = TrackersConfig()
    estimate: EstimateConfig = EstimateConfig()
    intervals: IntervalsConfig = IntervalsConfig()
    cache: CacheConfig = CacheConfig()

    @model_validator(mode="after")
    def _every_micro_batch_has_an_example(self) -> "TrainingConfig":
        workers = self.scaling.num_workers
        micro_batches = workers * -(-self.batch_size // (workers * self.micro_batch_size))
        if micro_batches > self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} leaves some of the {micro_batches} micro-batches of {workers} workers "
                "empty; raise batch_size or micro_batch_size, or lower scaling.num_workers"
            )
        return self


class TrainTeacherConfig(TrainingConfig):
    """Recipe of `jobs.train_teacher`: masked language modeling from a warm start."""

    encoder_dir: ModelRef = Field(
        description="BERT to start from: folder, URI or hub:OWNER/NAME; a missing masked-LM head is initialized"
    )


class DistillConfig(TrainingConfig):
    """Recipe of `jobs.distill`."""

    teacher_dir: ModelRef = Field(description="teacher: run folder, model folder or URI of one, or hub:OWNER/NAME")
    teacher_cache_dir: TeacherCache | None = Field(
        default=None, description="run folder of jobs.cache_teacher, read instead of running the teacher"
    )
    student: StudentConfig = StudentConfig()
    losses: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _cache_has_the_targets(self) -> "DistillConfig":
        uncached = [name for name in ("mse", *self.losses.layer_alphas) if self.losses.alphas[name]]
        if self.teacher_cache_dir is not None and uncached:
            weight = f"losses.alpha_{uncached[0]}"
            raise ValueError(f"teacher_cache_dir: {weight} needs the teacher itself; set it to 0, or remove the key")
        return self
