"""What the recipes of the evaluation jobs may say."""

from typing import Annotated, Literal

from pydantic import Field

from distilray.config.base import JobConfig
from distilray.config.pretraining_data import CacheConfig

Count = Annotated[int, Field(ge=1)]


class EvaluateFillMaskConfig(JobConfig):
    """Recipe of `jobs.evaluate_fill_mask`."""

    shards_dir: Annotated[str, Field(min_length=1)] = Field(description="run folder of jobs.encode_corpus")
    teacher_dir: Annotated[str, Field(min_length=1)] = Field(
        description="the teacher: run or model folder, URI of one, or hub:OWNER/NAME"
    )
    student_dir: Annotated[str, Field(min_length=1)] = Field(description="the student: likewise")
    max_examples: Count | None = Field(default=None, description="held-out examples to use; all when left out")
    batch_size: Count = 32
    precision: Literal["auto", "bf16", "fp32"] = Field(default="auto", description="of the scores, not of the latency")
    latency_examples: Count = Field(default=50, description="held-out examples for the batch-1 latency, in fp32")
    cache: CacheConfig = CacheConfig()
