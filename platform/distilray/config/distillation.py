"""What the recipes of `jobs.train_teacher`, `jobs.distill` and `jobs.cache_teacher` may say.

Defaults: DistilBERT's paper and trainer.
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

TOP_K = 64  # tokens of a cached teacher's distribution
_WEIGHT = "alpha_"  # begins the keys of the weights of losses
# Weight of a loss that compares layers one by one; those need the teacher itself, and not a cache of its last layer.
_LAYER_WISE = "layer-wise"
LayerWeight = Annotated[NonNegative, _LAYER_WISE]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and linear decay to 0."""

    learning_rate: Positive = 5e-4
    head_learning_rate: Positive | None = Field(
        default=None, description="for the vocabulary head; learning_rate when left out"
    )
    warmup_fraction: Fraction = 0.05
    weight_decay: NonNegative = 0.0
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.98)
    eps: Positive = 1e-6
    max_grad_norm: Positive = 5.0


class LossConfig(Config):
    """Weights of the loss terms, temperature, and where the terms on the vocabulary are taken.

    Every weight is named after an entry of `distillation.losses.LOSSES`. The three losses of the model card are on by
    default; the others are 0. `hidden` and `attention` are those of TinyBERT (Jiao et al. 2019, equations 7 to 9),
    `values` that of MiniLM (Wang et al. 2020, equation 3).
    """

    alpha_ce: NonNegative = 5.0
    alpha_mlm: NonNegative = 2.0
    alpha_cos: NonNegative = 1.0
    alpha_mse: NonNegative = Field(default=0.0, description="squared difference of the logits")
    alpha_hidden: LayerWeight = Field(default=0.0, description="squared difference of the hidden states of layers")
    alpha_attention: LayerWeight = Field(default=0.0, description="squared difference of the attention scores")
    alpha_values: LayerWeight = Field(default=0.0, description="KL of the relations between the value vectors")
    temperature: Positive = 2.0
    ce_positions: Positions = Field(
        default="all", description="every token, as the original; or only the masked ones, several times faster"
    )
    layer_map: Annotated[list[tuple[Layer, Layer]], Field(min_length=1)] | None = Field(
        default=None,
        description="[student layer, teacher layer] pairs of the layer-wise losses, -1 for the embeddings; when left "
        "out every layer of the student with the last of the teacher's layers that it stands for",
    )
    reduction: Literal["global", "original"] = Field(
        default="global",
        description="global: means over the whole step; original: mean of the means of its micro-batches",
    )

    @property
    def alphas(self) -> dict[str, float]:
        """Weight of every loss by name, zeros included."""
        keys = [key for key in type(self).model_fields if key.startswith(_WEIGHT)]
        return {key.removeprefix(_WEIGHT): getattr(self, key) for key in keys}

    @property
    def layer_alphas(self) -> dict[str, float]:
        """Positive weights of the losses that compare layers one by one, by name."""
        fields = type(self).model_fields
        return {
            name: alpha
            for name, alpha in self.alphas.items()
            if alpha and _LAYER_WISE in fields[_WEIGHT + name].metadata
        }

    @property
    def compared_positions(self) -> Positions:
        """Where the vocabulary of the teacher is asked for: `masked` too where no term but masked LM is on it."""
        return self.ce_positions if self.alpha_ce or self.alpha_mse else "masked"

    @model_validator(mode="after")
    def _some_loss(self) -> "LossConfig":
        if not any(self.alphas.values()):
            raise ValueError(
                "alpha_ce, alpha_mlm, alpha_cos and all others are 0: nothing would be learnt; set one above 0"
            )
        if self.layer_map and not self.layer_alphas:
            raise ValueError("layer_map: no layer-wise loss is on; set alpha_hidden, alpha_attention or alpha_values")
        if (self.alpha_attention or self.alpha_values) and all(-1 in pair for pair in self.layer_map or [(0, 0)]):
            raise ValueError("layer_map: embeddings (-1) have no attention and no values; add a pair of layers")
        return self


class StudentConfig(Config):
    """The student: half the teacher's layers, initialised from it."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = Field(
        default=None, description="teacher layers to take; half of them, spread evenly, when left out"
    )
    fold_segment_a: bool = Field(default=True, description="add the teacher's segment-A vector to every position")
    initialization: Literal["teacher", "random"] = Field(
        default="teacher", description="random draws all weights anew: what the initialization is worth"
    )

    @model_validator(mode="after")
    def _nothing_to_fold(self) -> "StudentConfig":
        if self.initialization == "random" and "fold_segment_a" in self.model_fields_set:
            raise ValueError("fold_segment_a: a random student takes nothing from its teacher; remove the key")
        return self


class ScalingConfig(Config):
    """Ray Train workers. It does not change which examples a step uses."""

    identity: ClassVar[bool] = False
    num_workers: Count = 8
    min_workers: Count | None = Field(
        default=None, description="go on with fewer workers, down to these, while the cluster has no room for all"
    )
    use_gpu: bool = True
    cpus_per_worker: Count = 4

    @model_validator(mode="after")
    def _no_more_than_all(self) -> "ScalingConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}; lower it")
        return self


class FaultToleranceConfig(Config):
    """What a run does when something goes wrong."""

    identity: ClassVar[bool] = False
    max_failures: Annotated[int, Field(ge=0)] = Field(
        default=3, description="restarts of the workers after one died; those after a preemption are not counted"
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        default=3, description="steps in a row without a finite gradient that are skipped; one more ends the run"
    )
    hang_timeout_s: Positive = Field(
        default=600.0, description="a worker that does not move for so long is named, and the workers are restarted"
    )
    preemption_grace_s: NonNegative = Field(
        default=30.0, description="what Ray Train waits for, at the end of a notice, before it stops the workers"
    )


class IntervalsConfig(Config):
    """How often a run reports, evaluates and saves, in optimiser steps."""

    identity: ClassVar[bool] = False
    log_every_steps: Count = 50
    evaluate_every_steps: Count = Field(
        default=1000, description="on all held-out examples; also before the first step"
    )
    heldout_examples: Count | None = Field(default=None, description="the first so many of them only")
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = Field(default=3, description="the newest; the best one is kept besides")
    poll_preemption_every_steps: Count = Field(
        default=1, description="how often the workers ask together whether a machine of theirs is about to go"
    )


class TrackersConfig(Config):
    """Where the numbers of a run go, besides `metrics.jsonl` and TensorBoard files, which are always written."""

    identity: ClassVar[bool] = False
    extra: tuple[Literal["mlflow", "wandb"], ...] = ()


class EstimateConfig(Config):
    """What `--dry-run` reckons time and cost with."""

    identity: ClassVar[bool] = False
    tokens_per_s: Positive | None = Field(default=None, description="of one worker")
    measured_run_dir: Annotated[InputFile, InputName("measured")] | None = Field(
        default=None, description="run folder of the same job: its metrics tell the tokens per second of a worker"
    )
    price_per_hour: Positive | None = Field(default=None, description="of one worker, in any currency")


class TrainingConfig(SeededConfig, RayJobConfig):
    """What both training jobs share."""

    shards_dir: Shards = Field(description="run folder of jobs.encode_corpus")
    max_steps: Count | None = Field(default=None, description="optimiser steps; epochs decide when left out")
    epochs: Positive = 3.0
    batch_size: Count = Field(default=2000, description="examples of an optimiser step, over all workers")
    micro_batch_size: Count = Field(default=32, description="examples of one forward pass of one worker, at most")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the device computes in it, else fp32; fp16 has a loss scale"
    )
    activation_checkpointing: bool = Field(
        default=False, description="layers are computed again in the backward pass: less memory, a third more work"
    )
    compile: bool = Field(
        default=False, description="torch.compile of the layers, which needs a C++ compiler on every machine"
    )
    dropout: FractionBelowOne | None = Field(
        default=None, description="of the trained model; its own config when left out"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    scaling: ScalingConfig = ScalingConfig()
    fault_tolerance: FaultToleranceConfig = FaultToleranceConfig()
    trackers: TrackersConfig = TrackersConfig()
    estimate: EstimateConfig = EstimateConfig()
    intervals: IntervalsConfig = IntervalsConfig()
    cache: CacheConfig = CacheConfig()

    @model_validator(mode="after")
    def _an_example_for_every_micro_batch(self) -> "TrainingConfig":
        workers = self.scaling.num_workers
        micro_batches = workers * -(-self.batch_size // (workers * self.micro_batch_size))
        if micro_batches > self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} gives some of the {micro_batches} micro-batches of {workers} workers no "
                "example; raise batch_size or micro_batch_size, or lower scaling.num_workers"
            )
        return self


class TrainTeacherConfig(TrainingConfig):
    """Recipe of `jobs.train_teacher`: masked language modelling from a warm start."""

    encoder_dir: ModelRef = Field(
        description="BERT to start from: folder, URI, hub:OWNER/NAME; a missing vocabulary head starts fresh"
    )


class DistillConfig(TrainingConfig):
    """Recipe of `jobs.distill`."""

    teacher_dir: ModelRef = Field(description="the teacher: run or model folder, URI of one, or hub:OWNER/NAME")
    teacher_cache_dir: TeacherCache | None = Field(
        default=None, description="run folder of jobs.cache_teacher, read instead of running the teacher"
    )
    student: StudentConfig = StudentConfig()
    losses: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _a_cache_holds_no_layers(self) -> "DistillConfig":
        needed = [
            f"losses.alpha_{name}" for name in (["mse"] * bool(self.losses.alpha_mse) + [*self.losses.layer_alphas])
        ]
        if self.teacher_cache_dir is not None and needed:
            raise ValueError(f"teacher_cache_dir: {needed[0]} needs the teacher itself; set it to 0, or remove the key")
        return self


class CacheTeacherScaling(Config):
    """Ray Data tasks. It does not change what a run writes."""

    identity: ClassVar[bool] = False
    gpus_per_task: NonNegative = Field(default=1.0, description="0 runs on CPUs; a part of 1 shares a GPU")
    cpus_per_task: Count = Field(default=4, description="of a task without a GPU; one with a GPU has one CPU")


class CacheTeacherConfig(RayJobConfig):
    """Recipe of `jobs.cache_teacher`."""

    shards_dir: Shards = Field(description="run folder of jobs.encode_corpus, with masks that are drawn once")
    teacher_dir: ModelRef = Field(description="the teacher: run or model folder, URI of one, or hub:OWNER/NAME")
    top_k: Count = Field(default=TOP_K, description="most probable tokens that are kept at a position")
    temperature: Positive = Field(default=2.0, description="losses.temperature of the run that reads the cache")
    positions: Positions = Field(
        default="all", description="where tokens are kept; masked serves losses.ce_positions=masked alone"
    )
    batch_size: Count = Field(default=64, description="examples of one forward pass")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="of the teacher's forward pass; auto: bf16 where the device computes in it"
    )
    scaling: CacheTeacherScaling = CacheTeacherScaling()
    estimate: EstimateConfig = EstimateConfig()
    cache: CacheConfig = CacheConfig()
