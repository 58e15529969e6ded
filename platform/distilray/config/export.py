"""Recipe of `jobs.export_model`."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import Config, Count, Fraction, InputFile, ModelRef, NonNegative, SeededConfig, Shards
from distilray.config.pretraining_data import CacheConfig

Variant = Literal["onnx", "onnx-standard", "onnx-int8", "bf16"]
VARIANTS: Sequence[Variant] = ("onnx", "onnx-standard", "onnx-int8", "bf16")
LOSSY: Sequence[Variant] = ("onnx-int8", "bf16")


class Int8Config(Config):
    """How weights become int8."""

    per_channel: bool = Field(default=True, description="a scale for each column of a matrix")
    reduce_range: bool = Field(
        default=False, description="7 bits: for serving on x86 CPUs without VNNI, whose sums overflow with 8"
    )


class GateConfig(Config):
    """What a variant with fewer bits may lose on the text, or it is refused."""

    min_agreement: Fraction = Field(
        default=0.90, description="share of masks where its best token is that of the model"
    )
    max_perplexity_change: NonNegative = Field(
        default=0.05, description="of the pseudo-perplexity, relative, either way"
    )


class PushConfig(Config):
    """Where the complete run is uploaded; nowhere unless asked for."""

    identity: ClassVar[bool] = False
    repo_id: Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")] | None = Field(
        default=None, description="OWNER/NAME on the Hugging Face hub; the token is that of the environment"
    )
    private: bool = Field(default=True, description="of a repository that is made for it")


class ExportModelConfig(SeededConfig):
    """Recipe of `jobs.export_model`."""

    model_dir: ModelRef = Field(description="run or model folder, URI of one, or hub:OWNER/NAME")
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = Field(
        default=("onnx", "onnx-int8", "bf16"),
        description="onnx-standard has the usual signature: logits of all tokens, no mask positions",
    )
    text_path: InputFile | None = Field(
        default=None, description="what lossy variants are tried on: a text, line by line"
    )
    shards_dir: Shards | None = Field(default=None, description="or the held-out split of jobs.encode_corpus")
    max_examples: Count = Field(default=200, description="lines or held-out examples to use, the first")
    batch_size: Count = 16
    max_logit_difference: Annotated[float, Field(gt=0, le=1e-4)] = Field(
        default=1e-4, description="between the ONNX graph and the model, over all logits that are compared"
    )
    int8: Int8Config = Int8Config()
    gate: GateConfig = GateConfig()
    cache: CacheConfig = CacheConfig()
    push: PushConfig = PushConfig()

    @model_validator(mode="after")
    def _text_is_given(self) -> Self:
        if len(set(self.variants)) < len(self.variants):
            raise ValueError("variants: one is named twice; name each once")
        if self.text_path and self.shards_dir:
            raise ValueError("text_path: shards_dir is given too; keep one of them")
        lossy = [variant for variant in self.variants if variant in LOSSY]
        if lossy and not (self.text_path or self.shards_dir):
            raise ValueError(f"text_path: {lossy[0]} is tried on a text; give text_path or shards_dir")
        return self
