"""Config of `jobs.export_model`."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import Config, Count, Fraction, InputFile, ModelRef, NonNegative, SeededConfig, Shards
from distilray.config.pretraining_data import CacheConfig

Variant = Literal["onnx", "onnx-standard", "onnx-int8", "bf16"]
VARIANTS: Sequence[Variant] = ("onnx", "onnx-standard", "onnx-int8", "bf16")
LOSSY: Sequence[Variant] = ("onnx-int8", "bf16")


class Int8Config(Config):
    """int8 quantization of the weights."""

    per_channel: bool = Field(default=True, description="one scale per matrix column")
    reduce_range: bool = Field(
        default=False, description="use 7 bits, for x86 CPUs without VNNI, whose accumulators overflow with 8"
    )


class GateConfig(Config):
    """Accuracy that a lossy variant must keep on the evaluation text; otherwise it is rejected."""

    min_agreement: Fraction = Field(
        default=0.90, description="share of masks at which the top token equals that of the model"
    )
    max_perplexity_change: NonNegative = Field(
        default=0.05, description="relative change of the pseudo-perplexity, in either direction"
    )


class PushConfig(Config):
    """Upload of the complete run to the Hugging Face Hub; off by default."""

    identity: ClassVar[bool] = False
    repo_id: Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")] | None = Field(
        default=None, description="OWNER/NAME on the hub; the token is read from the environment"
    )
    private: bool = Field(default=True, description="visibility of a newly created repository")


class ExportModelConfig(SeededConfig):
    """Recipe of `jobs.export_model`."""

    model_dir: ModelRef = Field(description="run folder, model folder or URI of one, or hub:OWNER/NAME")
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = Field(
        default=("onnx", "onnx-int8", "bf16"),
        description="onnx-standard has the usual signature: logits of all tokens, without an input for mask positions",
    )
    text_path: InputFile | None = Field(
        default=None, description="text file on which lossy variants are evaluated, line by line"
    )
    shards_dir: Shards | None = Field(
        default=None, description="alternative to text_path: run of jobs.encode_corpus, whose held-out split is used"
    )
    max_examples: Count = Field(default=200, description="number of lines or held-out examples to use, from the start")
    batch_size: Count = 16
    max_logit_difference: Annotated[float, Field(gt=0, le=1e-4)] = Field(
        default=1e-4, description="between the ONNX graph and the model, over all compared logits"
    )
    int8: Int8Config = Int8Config()
    gate: GateConfig = GateConfig()
    cache: CacheConfig = CacheConfig()
    push: PushConfig = PushConfig()

    @model_validator(mode="after")
    def _lossy_variants_have_a_text(self) -> Self:
        if len(set(self.variants)) < len(self.variants):
            raise ValueError("variants: contains a duplicate; list each variant once")
        if self.text_path and self.shards_dir:
            raise ValueError("text_path: shards_dir is set too; keep one of them")
        lossy = [variant for variant in self.variants if variant in LOSSY]
        if lossy and not (self.text_path or self.shards_dir):
            raise ValueError(f"text_path: {lossy[0]} must be evaluated on a text; set text_path or shards_dir")
        return self
