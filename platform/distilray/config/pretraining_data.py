"""Configs of `jobs.train_tokenizer` and `jobs.encode_corpus`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from distilray.config.base import (
    CacheDir,
    Config,
    Count,
    Documents,
    Fraction,
    Positive,
    RayJobConfig,
    SeededConfig,
    Tokenizer,
)

Mode = Literal["card", "paper"]

MAX_VOCABULARY = 65_536  # token ids are stored in 16 bits
# Defaults that depend on the mode. A recipe can override them.
_MODES: Mapping[str, Mapping[str, Any]] = {
    "card": {},
    "paper": {
        "dupe_factor": 1,  # every epoch draws new masks, so copies would only repeat the text
        "short_seq_prob": 0.0,
        "random_next_probability": 0.0,
        "masking": {"dynamic": True, "rare_token_exponent": 0.7},
    },
}


class CacheConfig(Config):
    """Local cache for shards of an object store, on each machine that reads them."""

    identity: ClassVar[bool] = False
    directory: CacheDir = Field(default="~/.cache/distilray/shards", description="preferably on a fast local disk")
    max_gb: Positive = Field(default=500.0, description="size at which the least recently used shards are removed")


class TrainTokenizerConfig(SeededConfig):
    """Recipe of `jobs.train_tokenizer`. With `teacher_dir` nothing is trained and the training settings are ignored."""

    corpus_dir: Documents | None = Field(default=None, description="run folder of jobs.build_corpus")
    teacher_dir: Tokenizer | None = Field(default=None, description="model folder whose tokenizer is copied")
    vocabulary_size: Annotated[int, Field(ge=200, le=MAX_VOCABULARY)] = 30_000
    lower_case: bool = True
    strip_accents: bool | None = Field(
        default=None,
        description="true removes accents, umlauts and vowel signs; false keeps them, as German and Hindi need; "
        "default: same as lower_case",
    )
    sample_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="share of the documents used for training"
    )
    min_frequency: Count = 2
    max_characters: Count = Field(
        default=1000, description="number of distinct characters that become tokens, most frequent first"
    )
    max_seq_length: Annotated[int, Field(ge=16, le=4096)] = Field(
        default=512, description="length limit recorded in the tokenizer for other programs; this project ignores it"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "TrainTokenizerConfig":
        if (self.corpus_dir is None) == (self.teacher_dir is None):
            raise ValueError("set either corpus_dir, to train a tokenizer, or teacher_dir, to copy the teacher's")
        return self


class MaskingConfig(Config):
    """Selection and replacement of the tokens to predict (model card; BERT, section 3.1)."""

    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    mask_share: Fraction = 0.8
    random_share: Fraction = 0.1
    keep_share: Fraction = 0.1
    dynamic: bool = Field(default=False, description="draw new masks in every epoch, when the examples are read")
    whole_words: bool = Field(default=False, description="mask all word pieces of a word or none")
    rare_token_exponent: Fraction = Field(
        default=0.0, description="choose tokens with weight count ** -exponent; 0 chooses uniformly"
    )

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "MaskingConfig":
        total = self.mask_share + self.random_share + self.keep_share
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"mask_share + random_share + keep_share must be 1, not {total:g}")
        return self


class EncodeCorpusConfig(SeededConfig, RayJobConfig):
    """Recipe of `jobs.encode_corpus`."""

    corpus_dir: Documents = Field(description="run folder of jobs.build_corpus")
    tokenizer_dir: Tokenizer = Field(description="folder of the teacher's tokenizer, or run of jobs.train_tokenizer")
    mode: Mode = Field(default="card", description="card: pairs of segments; paper: contiguous text")
    max_seq_length: Annotated[int, Field(ge=16, le=4096)] = 512
    short_seq_prob: Fraction = 0.1
    random_next_probability: Fraction = 0.5
    single_sentence_documents: Literal["random", "drop"] = Field(
        default="random",
        description="documents of one sentence have no next sentence: pair them with a random one, even beyond "
        "random_next_probability, or drop them",
    )
    dupe_factor: Annotated[int, Field(ge=1, le=256)] = 10
    heldout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    min_example_tokens: Annotated[int, Field(ge=3)] = Field(
        default=5, description="shorter examples, including special tokens, are dropped and counted"
    )
    masking: MaskingConfig = MaskingConfig()
    rows_per_shard: Count = 50_000
    chunk_mb: Positive = Field(
        default=8.0, description="MB of stored documents that one task encodes; a resumed run skips completed chunks"
    )

    @model_validator(mode="after")
    def _pairs_in_card_mode_only(self) -> "EncodeCorpusConfig":
        if self.mode == "paper" and self.random_next_probability:
            raise ValueError("random_next_probability: mode 'paper' has no pairs; remove the key, or use mode 'card'")
        if self.mode == "paper" and "single_sentence_documents" in self.model_fields_set:
            raise ValueError("single_sentence_documents: mode 'paper' has no pairs; remove the key, or use mode 'card'")
        return self

    @model_validator(mode="before")
    @classmethod
    def _apply_mode_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("mode", "card") not in _MODES:
            return values
        defaults = dict(_MODES[values.get("mode", "card")])
        masking_defaults, masking = defaults.pop("masking", {}), values.get("masking", {})
        if masking_defaults and isinstance(masking, Mapping):
            defaults["masking"] = {**masking_defaults, **masking}
            values = {name: value for name, value in values.items() if name != "masking"}
        return {**defaults, **values}
