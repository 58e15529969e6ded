"""Recipe of `jobs.measure_efficiency`."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from distilray.config.base import Config, Count, GlueDir, InputFile, InputName, JobConfig, ModelRef, Text
from distilray.config.glue import TaskName


class MeasuredModelConfig(Config):
    """A row of the efficiency table."""

    name: Text
    model_dir: Annotated[ModelRef, InputName("models.{name}")] = Field(
        description="as in export_model, or a folder that it wrote (RUN/onnx, RUN/bf16)"
    )


class MeasureEfficiencyConfig(JobConfig):
    """Recipe of `jobs.measure_efficiency`."""

    models: Annotated[tuple[MeasuredModelConfig, ...], Field(min_length=1)] = Field(
        description="the first is what the others are compared with"
    )
    tasks: ClassVar[Sequence[TaskName]] = ("stsb",)
    glue_dir: GlueDir | None = Field(default=None, description="its STS-B dev sentences are the input, as in the paper")
    text_path: InputFile | None = Field(default=None, description="or the lines of a text")
    max_texts: Count = Field(default=200, description="the first of them")
    max_length: Annotated[int, Field(ge=4, le=512)] = Field(default=128, description="tokens; longer texts are cut")
    rounds: Count = Field(default=3, description="how often all models are timed, in turn")
    batch_size: Count = Field(default=32, description="of the throughput")
    threads: Count | None = Field(default=None, description="of every model; all cores when left out")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if bool(self.glue_dir) == bool(self.text_path):
            raise ValueError("text_path: give glue_dir or text_path, one of them")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("models: two have the same name; name each differently")
        return self
