"""Config of `jobs.cache_teacher`."""

from typing import Annotated, ClassVar

from pydantic import Field

from distilray.config.base import (
    Config,
    Count,
    ModelRef,
    NonNegative,
    Positive,
    PrecisionSetting,
    RayJobConfig,
    Shards,
)
from distilray.config.distillation import EstimateConfig, Positions
from distilray.config.pretraining_data import CacheConfig

TOP_K, SAMPLES = 16, 32  # tokens of a cached teacher distribution


class CacheTeacherScaling(Config):
    """Resources of a task. Tasks run in actors, each of which loads the teacher once. They do not affect the output."""

    identity: ClassVar[bool] = False
    gpus_per_task: NonNegative = Field(default=1.0, description="0 runs on CPUs; a fraction shares a GPU")
    cpus_per_task: Count = Field(default=4, description="CPUs of a task without a GPU; a task with a GPU has one CPU")


class CacheTeacherConfig(RayJobConfig):
    """Recipe of `jobs.cache_teacher`."""

    shards_dir: Shards = Field(description="run folder of jobs.encode_corpus with static masks")
    teacher_dir: ModelRef = Field(description="teacher: run folder, model folder or URI of one, or hub:OWNER/NAME")
    top_k: Count = Field(default=TOP_K, description="number of most probable tokens to store per position")
    samples: Annotated[int, Field(ge=0)] = Field(
        default=SAMPLES, description="number of other tokens to store per position, drawn by their probability"
    )
    temperature: Positive = Field(default=2.0, description="must equal losses.temperature of the distillation")
    positions: Positions = Field(
        default="all", description="positions to store; masked is sufficient for losses.ce_positions=masked only"
    )
    hidden_states: bool = Field(
        default=True, description="store the last hidden states, in 8 bits; losses.alpha_cos needs them"
    )
    batch_size: Count = Field(default=64, description="examples of one forward pass")
    precision: PrecisionSetting = "auto"
    scaling: CacheTeacherScaling = CacheTeacherScaling()
    estimate: EstimateConfig = EstimateConfig()
    cache: CacheConfig = CacheConfig()
