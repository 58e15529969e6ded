"""Configs of the evaluation jobs: fill-mask, bias, efficiency, GLUE texts and the next-sentence task."""

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
    PrecisionSetting,
    RayJobConfig,
    SeededConfig,
    Shards,
    SharedFile,
    Text,
)
from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.config.pretraining_data import CacheConfig

Rows = Annotated[int, Field(ge=2, le=1_000_000)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
# Scoring of StereoSet candidates; see `evaluation/bias/stereoset.py`.
Scoring = Literal["left_to_right", "official"]


class FillMaskDataConfig(Config):
    """Files of masked texts with their answers. The default columns are those of rcds/wikipedia-for-mask-filling."""

    path: SharedFile = Field(description="file, folder (searched recursively), glob pattern with *, or URI")
    format: Literal["auto", "jsonl", "parquet", "csv", "text"] = Field(
        default="auto", description="auto: by file suffix; all but Parquet may be compressed (.gz, .bz2, .xz, .zst)"
    )
    text_column: Annotated[str, Field(min_length=1)] = Field(
        default="texts", description="text with `<mask>` or `[MASK]` in place of each missing word"
    )
    answer_column: Annotated[str, Field(min_length=1)] = Field(
        default="masks", description="list with the answer for each mask, or a string if there is only one mask"
    )
    scored_masks: Literal["all", "first"] = Field(
        default="all", description="first: the answer belongs to the first mask; other masks are shown but not scored"
    )
    masked_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.15, description="for plain text without masks: share of the words of each line to mask"
    )
    max_length: Annotated[int, Field(ge=8)] | None = Field(
        default=None,
        description="length of a window in tokens, including [CLS] and [SEP]; default: maximum of the models",
    )
    left_to_right: bool = Field(
        default=True,
        description="also score answers of several word pieces from left to right, with one forward pass per piece",
    )
    chunk_rows: Count = Field(default=256, description="rows per chunk, the unit of work that a resumed run skips")


class BootstrapConfig(Config):
    """Percentile bootstrap over texts (Efron 1979). Texts are resampled together with all of their masks."""

    resamples: Annotated[int, Field(ge=0)] = Field(default=1000, description="0 disables confidence intervals")
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95


class CausalConfig(Config):
    """Azure's metric `causal_perplexity_of_predictions`. It does not measure whether answers are correct."""

    model_dir: Annotated[CausalModelDir, InputName("causal")] = Field(
        description="causal language model: local folder in the layout of transformers with safetensors weights"
    )
    batch_size: Count = 16
    add_start_token: bool = Field(default=True, description="prepend the BOS token of the model to each text")


class FillMaskScaling(Config):
    """Actors that hold the models, for data in files."""

    identity: ClassVar[bool] = False
    actors: Count | None = Field(default=None, description="default: as many as the CPUs or GPUs allow")
    cpus_per_actor: Count = Field(
        default=1, description="threads of an actor; changing it can change the last digit of a loss"
    )
    gpus_per_actor: Annotated[float, Field(gt=0.0, le=8.0)] = Field(default=1.0, description="if a GPU is used")


class FillMaskFaultToleranceConfig(Config):
    """Tolerance for unusable rows."""

    identity: ClassVar[bool] = False
    max_bad_fraction: Fraction = Field(default=0.01, description="share of bad rows among all rows")


class EvaluateFillMaskConfig(SeededConfig, RayJobConfig):
    """Recipe of `jobs.evaluate_fill_mask`: on held-out shards, or on data in files."""

    shards_dir: Shards | None = Field(
        default=None, description="run folder of jobs.encode_corpus, whose held-out split is used"
    )
    data: FillMaskDataConfig | None = Field(default=None, description="files, as an alternative to shards_dir")
    teacher_dir: ModelRef | None = Field(
        default=None, description="teacher: run folder, model folder or URI of one, or hub:OWNER/NAME; optional"
    )
    student_dir: ModelRef = Field(description="student, or the only model; same forms as teacher_dir")
    max_examples: Count | None = Field(
        default=None, description="number of held-out examples or of rows, from the start; default: all"
    )
    batch_size: Count = 32
    precision: PrecisionSetting = Field(
        default="auto", description="precision for the scores; latency is always measured in fp32"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto: a GPU if there is one")
    latency_examples: Annotated[int, Field(ge=0)] = Field(
        default=50, description="examples for the latency at batch size 1; 0 skips the measurement"
    )
    bootstrap: BootstrapConfig = BootstrapConfig()
    causal: CausalConfig | None = None
    scaling: FillMaskScaling = FillMaskScaling()
    fault_tolerance: FillMaskFaultToleranceConfig = FillMaskFaultToleranceConfig()
    cache: CacheConfig = CacheConfig()

    @model_validator(mode="before")
    @classmethod
    def _translate_azure_names(cls, values: object, info: ValidationInfo) -> object:
        return translate_azure(values, (info.context or {}).get(RECIPE_FOLDER), cls.model_fields)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.shards_dir is None) == (self.data is None):
            raise ValueError("set exactly one source of masks: shards_dir, or data.path (test_data)")
        if self.causal is not None and self.data is None:
            raise ValueError("causal: needs texts, but shards contain token ids; set data.path instead of shards_dir")
        source = "data" if self.shards_dir is None else "shards_dir"
        for name in {"data": ["cache"], "shards_dir": ["scaling", "fault_tolerance", "ray"]}[source]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect with {source}; remove it")
        return self


class EvaluateBiasConfig(SeededConfig):
    """Recipe of `jobs.evaluate_bias`."""

    models: Annotated[dict[Label, ModelRef], Field(min_length=1)] = Field(
        description="by a name of your choice: run or model folder, ONNX folder of jobs.export_model, URI of one, or "
        "hub:OWNER/NAME; the others are compared with the first one"
    )
    probes: bool = Field(default=True, description="the probes of the model card and the table of templates x groups")
    top_k: Count = Field(default=5, description="answers per probe")
    crows_pairs_path: InputFile | None = Field(
        default=None, description="crows_pairs_anonymized.csv of github.com/nyu-mll/crows-pairs; CC BY-SA 4.0"
    )
    stereoset_path: InputFile | None = Field(
        default=None, description="dev.json of github.com/moinnadeem/StereoSet; CC BY-SA 4.0"
    )
    stereoset_scoring: Scoring = Field(
        default="left_to_right",
        description="left_to_right: mean log probability of the word pieces, each with the pieces to its right masked; "
        "official: as in the authors' code, for comparison with published numbers",
    )
    max_bad_fraction: Fraction = Field(default=0.05, description="share of the rows of a file that may be unusable")
    batch_size: Count = 64
    precision: PrecisionSetting = Field(
        default="fp32", description="precision of the encoder; fp32 because the compared likelihoods are close"
    )

    @property
    def reference(self) -> str:
        """Name of the model that the others are compared with."""
        return next(iter(self.models))

    def identity_values(self) -> dict[str, Any]:
        """Add the names of the models, in order; their content is part of the inputs."""
        return {**super().identity_values(), "models": list(self.models)}

    @model_validator(mode="after")
    def _names_differ_in_manifest(self) -> Self:
        for name in self.models:
            # A manifest records the two files of a model NAME as NAME and NAME_config.
            if f"{name}_config" in self.models:
                raise ValueError(f"models: '{name}_config' clashes with '{name}'; choose another name")
        return self

    @model_validator(mode="after")
    def _has_a_measure(self) -> Self:
        if not (self.probes or self.crows_pairs_path or self.stereoset_path):
            raise ValueError("nothing to evaluate: set probes, crows_pairs_path or stereoset_path")
        return self


class BuildNextSentenceTaskConfig(SeededConfig):
    """Recipe of `jobs.build_next_sentence_task`."""

    corpus_dir: Documents = Field(description="run folder of jobs.build_corpus")
    train: Rows = Field(default=600, description="pairs of the split; in half of them B follows A")
    dev: Rows = 200
    test: Rows = 200
    min_words: Count = Field(default=5, description="shorter sentences, such as headings, are skipped")
    max_words: Count = Field(default=40, description="longer sentences are skipped because they would be truncated")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words: {self.min_words} is above max_words, {self.max_words}; lower it")
        return self


class WriteGlueTextConfig(JobConfig):
    """Recipe of `jobs.write_glue_text`."""

    glue_dir: GlueDir = Field(description="folder with one subfolder per task")
    tasks: Annotated[list[TaskName], Field(min_length=1)] = Field(default=list(GLUE_TASKS))
    min_words: Annotated[int, Field(ge=3)] = Field(default=5, description="shorter texts are skipped")


class MeasuredModelConfig(Config):
    """A row of the efficiency table."""

    name: Text
    model_dir: Annotated[ModelRef, InputName("models.{name}")] = Field(
        description="as in export_model, or a folder that it wrote (RUN/onnx, RUN/bf16)"
    )


class MeasureEfficiencyConfig(JobConfig):
    """Recipe of `jobs.measure_efficiency`."""

    models: Annotated[tuple[MeasuredModelConfig, ...], Field(min_length=1)] = Field(
        description="the others are compared with the first one"
    )
    tasks: ClassVar[Sequence[TaskName]] = ("stsb",)
    glue_dir: GlueDir | None = Field(default=None, description="use the STS-B dev sentences, as in the paper")
    text_path: InputFile | None = Field(default=None, description="use the lines of a text file instead")
    max_texts: Count = Field(default=200, description="number of texts to use, from the start")
    max_length: Annotated[int, Field(ge=4, le=512)] = Field(
        default=128, description="in tokens; longer texts are truncated"
    )
    rounds: Count = Field(default=3, description="number of measurements of each model; the models take turns")
    batch_size: Count = Field(default=32, description="batch size for the throughput")
    threads: Count | None = Field(default=None, description="threads of every model; default: all cores")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if bool(self.glue_dir) == bool(self.text_path):
            raise ValueError("text_path: set exactly one of glue_dir and text_path")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("models: duplicate name; give each model a different name")
        return self
