"""Recipes of `evaluate_fill_mask`, `build_next_sentence_task`, `write_glue_text` and `measure_efficiency`.

What the recipe of `jobs.evaluate_bias` may say.

Sections of a recipe of `jobs.evaluate_fill_mask`: data, intervals, the causal metric, actors, faults.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from distilray.config.azure import translate_azure
from distilray.config.base import (
    RECIPE_FOLDER,
    CausalModelDir,
    Config,
    Count,
    Documents,
    Fraction,
    GlueDir,
    InputFile,
    InputName,
    JobConfig,
    ModelRef,
    RayJobConfig,
    SeededConfig,
    Shards,
    SharedFile,
    Text,
)
from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.config.pretraining_data import CacheConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
# How StereoSet's candidates are scored; see `evaluation/bias/stereoset.py`.
Scoring = Literal["left_to_right", "official"]


class EvaluateBiasConfig(SeededConfig):
    """Recipe of `jobs.evaluate_bias`."""

    models: Annotated[dict[Name, ModelRef], Field(min_length=1)] = Field(
        description="by a name of your choice: run or model folder, ONNX folder of jobs.export_model, URI of one, or "
        "hub:OWNER/NAME; the first is the reference that the others are compared with"
    )
    probes: bool = Field(default=True, description="the model card's probes and the table of templates x groups")
    top_k: Count = Field(default=5, description="answers to each probe")
    crows_pairs_path: InputFile | None = Field(
        default=None, description="crows_pairs_anonymized.csv of github.com/nyu-mll/crows-pairs; CC BY-SA 4.0"
    )
    stereoset_path: InputFile | None = Field(
        default=None, description="dev.json of github.com/moinnadeem/StereoSet; CC BY-SA 4.0"
    )
    stereoset_scoring: Scoring = Field(
        default="left_to_right",
        description="left_to_right: mean log probability of the word's pieces, each with those to its right masked; "
        "official: as in the authors' code, for comparison with published numbers",
    )
    max_bad_fraction: Fraction = Field(default=0.05, description="of a file's rows that may be left out, with reasons")
    batch_size: Count = 64
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="fp32", description="of the encoder; fp32, as the likelihoods that are compared lie close together"
    )

    @property
    def reference(self) -> str:
        """Name of the model that the others are compared with."""
        return next(iter(self.models))

    def identity_values(self) -> dict[str, Any]:
        """As of every config; of the models only their names, in order: what they hold is known by the inputs."""
        return {**super().identity_values(), "models": list(self.models)}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for name in self.models:
            # The manifest knows the two files of a model NAME as NAME and NAME_config.
            if f"{name}_config" in self.models:
                raise ValueError(f"models: '{name}_config' beside '{name}'; choose another name")
        return self

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if not (self.probes or self.crows_pairs_path or self.stereoset_path):
            raise ValueError("nothing to evaluate: set probes, crows_pairs_path or stereoset_path")
        return self


class FillMaskDataConfig(Config):
    """Texts with masks and their answers in files. The defaults are the columns of rcds/wikipedia-for-mask-filling."""

    path: SharedFile = Field(description="a file, a folder (read with all below it) or a pattern with *; or a URI")
    format: Literal["auto", "jsonl", "parquet", "csv", "text"] = Field(
        default="auto", description="by the suffix when left out; all but Parquet may be .gz, .bz2, .xz or .zst"
    )
    text_column: Annotated[str, Field(min_length=1)] = Field(
        default="texts", description="the text; `<mask>` or `[MASK]` stands where a word is missing"
    )
    answer_column: Annotated[str, Field(min_length=1)] = Field(
        default="masks", description="a list with what is missing at each mask, or a string for a single one"
    )
    scored_masks: Literal["all", "first"] = Field(
        default="all", description="first: the answer is that of the first mask, the others are shown and not scored"
    )
    masked_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.15, description="of plain text, which has no masks: the share of the words of a line that we mask"
    )
    max_length: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="tokens of a window, [CLS] and [SEP] included; what the models read when left out"
    )
    left_to_right: bool = Field(
        default=True, description="also scores answers of several word pieces from left to right: a pass for each"
    )
    chunk_rows: Count = Field(default=256, description="rows that are marked as done together")


class BootstrapConfig(Config):
    """Percentile bootstrap over texts (Efron 1979): texts are drawn with replacement, with all their masks."""

    resamples: Annotated[int, Field(ge=0)] = Field(default=1000, description="0 leaves the intervals out")
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95


class CausalConfig(Config):
    """`causal_perplexity_of_predictions`: Azure's metric. It does not tell whether a mask was filled rightly."""

    model_dir: Annotated[CausalModelDir, InputName("causal")] = Field(
        description="a causal language model: local folder in the layout of transformers, weights as safetensors"
    )
    batch_size: Count = 16
    add_start_token: bool = Field(default=True, description="puts the model's BOS token before each text")


class FillMaskScaling(Config):
    """The pool of actors that holds the models, for data in files."""

    identity: ClassVar[bool] = False
    actors: Count | None = Field(default=None, description="as many as there are CPUs or GPUs for when left out")
    cpus_per_actor: Count = Field(
        default=1, description="threads of an actor; another number can change the last digit of a loss"
    )
    gpus_per_actor: Annotated[float, Field(gt=0.0, le=8.0)] = Field(default=1.0, description="where a GPU is used")


class FillMaskFaultToleranceConfig(Config):
    """When rows that cannot be used make the job fail."""

    identity: ClassVar[bool] = False
    max_bad_fraction: Fraction = Field(default=0.01, description="bad rows among all rows")


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
    bootstrap: BootstrapConfig = BootstrapConfig()
    causal: CausalConfig | None = None
    scaling: FillMaskScaling = FillMaskScaling()
    fault_tolerance: FillMaskFaultToleranceConfig = FillMaskFaultToleranceConfig()
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
        for name in {"data": ["cache"], "shards_dir": ["scaling", "fault_tolerance", "ray"]}[source]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: does nothing with {source}; leave it out")
        return self


class BuildNextSentenceTaskConfig(SeededConfig):
    """Recipe of `jobs.build_next_sentence_task`."""

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
