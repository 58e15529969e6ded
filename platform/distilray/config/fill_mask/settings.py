"""Sections of a recipe of `jobs.evaluate_fill_mask`: data, intervals, the causal metric, actors, faults."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distilray.config.base import CausalModelDir, Config, Count, Fraction, InputName, SharedFile


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
    scored: Literal["all", "first"] = Field(
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
    part_rows: Count = Field(default=256, description="rows that are marked as done together")


class IntervalsConfig(Config):
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


class FillMaskFaults(Config):
    """When rows that cannot be used make the job fail."""

    identity: ClassVar[bool] = False
    max_bad_fraction: Fraction = Field(default=0.01, description="bad rows among all rows")
