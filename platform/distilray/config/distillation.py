"""What the recipes of `jobs.train_teacher` and `jobs.distill` may say. Defaults: DistilBERT's paper and trainer."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from distilray.config.base import Config, JobConfig
from distilray.config.pretraining_data import CacheConfig

Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and linear decay to 0."""

    learning_rate: Positive = 5e-4
    head_learning_rate: Positive | None = Field(
        default=None, description="for the vocabulary head; learning_rate when left out"
    )
    warmup_fraction: Fraction = 0.05
    weight_decay: NotNegative = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: Positive = 1e-6
    max_grad_norm: Positive = 5.0


class LossConfig(Config):
    """The three losses of the model card: weights, temperature, and where the distillation loss is taken."""

    alpha_ce: NotNegative = 5.0
    alpha_mlm: NotNegative = 2.0
    alpha_cos: NotNegative = 1.0
    temperature: Positive = 2.0
    ce_positions: Literal["all", "masked"] = Field(
        default="all", description="every token, as the original; or only the masked ones, several times faster"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> "LossConfig":
        if self.alpha_ce + self.alpha_mlm + self.alpha_cos == 0:
            raise ValueError("alpha_ce, alpha_mlm and alpha_cos are all 0: nothing would be learnt")
        return self


class StudentConfig(Config):
    """The student: half the teacher's layers, initialised from it."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = Field(
        default=None, description="teacher layers to take; half of them, spread evenly, when left out"
    )
    fold_segment_a: bool = Field(default=True, description="add the teacher's segment-A vector to every position")


class ScalingConfig(Config):
    """Ray Train workers. It does not change which examples a step uses."""

    identity: ClassVar[bool] = False
    num_workers: Count = 8
    use_gpu: bool = True
    cpus_per_worker: Count = 4
    max_failures: Annotated[int, Field(ge=0)] = 3


class RhythmConfig(Config):
    """How often a run reports, evaluates and saves, in optimiser steps."""

    identity: ClassVar[bool] = False
    log_every_steps: Count = 50
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3


class TrainingConfig(JobConfig):
    """What both training jobs share."""

    shards_dir: Annotated[str, Field(min_length=1)] = Field(description="run folder of jobs.encode_corpus")
    max_steps: Count | None = Field(default=None, description="optimiser steps; epochs decide when left out")
    epochs: Positive = 3.0
    batch_size: Count = Field(default=2000, description="examples of an optimiser step, over all workers")
    micro_batch_size: Count = Field(default=32, description="examples of one forward pass of one worker, at most")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the device computes in it, else fp32"
    )
    dropout: Fraction | None = Field(default=None, description="of the trained model; its own config when left out")
    optimizer: OptimizerConfig = OptimizerConfig()
    scaling: ScalingConfig = ScalingConfig()
    rhythm: RhythmConfig = RhythmConfig()
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

    encoder_dir: Annotated[str, Field(min_length=1)] = Field(
        description="BERT folder to start from; a missing vocabulary head starts fresh"
    )


class DistillConfig(TrainingConfig):
    """Recipe of `jobs.distill`."""

    teacher_dir: Annotated[str, Field(min_length=1)] = Field(description="folder of the teacher")
    student: StudentConfig = StudentConfig()
    losses: LossConfig = LossConfig()
