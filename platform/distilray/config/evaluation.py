"""Recipes of `evaluate_fill_mask`, `build_follows`, `write_glue_text` and `measure_efficiency`."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from distilray.config.base import (
    RECIPE_FOLDER,
    Config,
    Count,
    Documents,
    GlueDir,
    InputFile,
    InputName,
    JobConfig,
    ModelRef,
    RayJobConfig,
    SeededConfig,
    Shards,
    Text,
)
from distilray.config.fill_mask.azure import translate_azure
from distilray.config.fill_mask.settings import (
    CausalConfig,
    FillMaskDataConfig,
    FillMaskFaults,
    FillMaskScaling,
    IntervalsConfig,
)
from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.config.pretraining_data import CacheConfig

Rows = Annotated[int, Field(ge=2, le=1_000_000)]


class EvaluateFillMaskConfig(SeededConfig, RayJobConfig):
    """Recipe of `jobs.evaluate_fill_mask`: on held-out shards, or on data in files."""

    shards_dir: Shards | None = Field(
        default=None, description="run folder of jobs.encode_corpus, whose held-out split is read"
    )
    data: FillMaskDataConfig | None = Field(default=None, description="files instead of shards")
    teacher_dir: ModelRef | None = Field(
        default=None, description="the teacher: run or model folder, URI of one, or hub:OWNER/NAME; none when left out"
    )
    student_dir: ModelRef = Field(description="the student, or a model alone: likewise")
    max_examples: Count | None = Field(
        default=None, description="held-out examples, or the first rows of the files; all when left out"
    )
    batch_size: Count = 32
    precision: Literal["auto", "bf16", "fp32"] = Field(default="auto", description="of the scores, not of the latency")
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto: a GPU where there is one")
    latency_examples: Annotated[int, Field(ge=0)] = Field(
        default=50, description="examples for the batch-1 latency, in fp32; 0 leaves it out"
    )
    intervals: IntervalsConfig = IntervalsConfig()
    causal: CausalConfig | None = None
    scaling: FillMaskScaling = FillMaskScaling()
    faults: FillMaskFaults = FillMaskFaults()
    cache: CacheConfig = CacheConfig()

    @model_validator(mode="before")
    @classmethod
    def _azure_names_are_understood(cls, values: object, info: ValidationInfo) -> object:
        return translate_azure(values, (info.context or {}).get(RECIPE_FOLDER), cls.model_fields)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.shards_dir is None) == (self.data is None):
            raise ValueError("name one source of masks: shards_dir, or data.path (test_data)")
        if self.causal is not None and self.data is None:
            raise ValueError("causal: needs texts, and shards hold token ids; name data.path instead of shards_dir")
        source = "data" if self.shards_dir is None else "shards_dir"
        for name in {"data": ["cache"], "shards_dir": ["scaling", "faults", "ray"]}[source]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: does nothing with {source}; leave it out")
        return self


class BuildFollowsConfig(SeededConfig):
    """Recipe of `jobs.build_follows`."""

    corpus_dir: Documents = Field(description="run folder of jobs.build_corpus")
    train: Rows = Field(default=600, description="pairs of the split; half of them follow")
    dev: Rows = 200
    test: Rows = 200
    min_words: Count = Field(default=5, description="shorter sentences are left out: headings, remarks")
    max_words: Count = Field(default=40, description="longer ones too: the model would see a part of them")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words: {self.min_words} is above max_words, {self.max_words}; lower it")
        return self


class WriteGlueTextConfig(JobConfig):
    """Recipe of `jobs.write_glue_text`."""

    glue_dir: GlueDir = Field(description="folder with a folder for each task")
    tasks: Annotated[list[TaskName], Field(min_length=1)] = Field(default=list(GLUE_TASKS))
    min_words: Annotated[int, Field(ge=3)] = Field(default=5, description="shorter texts are left out")


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
