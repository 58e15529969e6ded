"""What the recipes of the evaluation jobs may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import JobConfig
from distilray.config.pretraining_data import CacheConfig

Count = Annotated[int, Field(ge=1)]
Rows = Annotated[int, Field(ge=2, le=1_000_000)]


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


class BuildFollowsConfig(JobConfig):
    """Recipe of `jobs.build_follows`."""

    corpus_dir: Annotated[str, Field(min_length=1)] = Field(description="run folder of jobs.build_corpus")
    train: Rows = Field(default=600, description="pairs of the split; half of them follow")
    dev: Rows = 200
    test: Rows = 200
    min_words: Count = Field(default=5, description="shorter sentences are left out: headings, remarks")
    max_words: Count = Field(default=40, description="longer ones too: the model would see a part of them")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words: {self.min_words} is above max_words, {self.max_words}")
        return self
