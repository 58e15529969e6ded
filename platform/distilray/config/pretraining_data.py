"""What a recipe of `jobs.train_tokenizer` and of `jobs.encode_corpus` may say."""

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

MAX_VOCABULARY = 65_536  # ids are stored in 16 bits
# What a mode changes of the defaults; a recipe may still say otherwise.
_MODES: Mapping[str, Mapping[str, Any]] = {
    "card": {},
    "paper": {
        "dupe_factor": 1,  # masks are new in every epoch, so copies would only repeat the text
        "short_seq_prob": 0.0,
        "random_next_probability": 0.0,
        "masking": {"dynamic": True, "rare_token_exponent": 0.7},
    },
}


class CacheConfig(Config):
    """Where shards of an object store are kept on each machine that reads them."""

    identity: ClassVar[bool] = False
    directory: CacheDir = Field(default="~/.cache/distilray/shards", description="a fast local disk is best")
    max_gb: Positive = Field(
        default=500.0, description="beyond it the shards that were not used for longest are removed"
    )


class TrainTokenizerConfig(SeededConfig):
    """Recipe of `jobs.train_tokenizer`; with `teacher_dir` nothing is learnt, and what says how is not used."""

    corpus_dir: Documents | None = Field(default=None, description="run folder of jobs.build_corpus")
    teacher_dir: Tokenizer | None = Field(default=None, description="model folder whose tokenizer is used as it is")
    vocabulary_size: Annotated[int, Field(ge=200, le=MAX_VOCABULARY)] = 30_000
    lower_case: bool = True
    strip_accents: bool | None = Field(
        default=None,
        description="true removes accents, umlauts and vowel signs; false keeps them, as German and Hindi need; "
        "when left out as `lower_case`",
    )
    sample_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="share of the documents that the vocabulary is learned from"
    )
    min_frequency: Count = 2
    max_characters: Count = Field(default=1000, description="distinct characters that become tokens, the commonest")
    max_seq_length: Annotated[int, Field(ge=16, le=4096)] = Field(
        default=512, description="what the tokenizer tells its users; it limits nothing here"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "TrainTokenizerConfig":
        if (self.corpus_dir is None) == (self.teacher_dir is None):
            raise ValueError("give corpus_dir to train a tokenizer, or teacher_dir to use the teacher's: one of them")
        return self


class MaskingConfig(Config):
    """Which tokens are predicted, and what the model sees in their place (model card; BERT section 3.1)."""

    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    mask_share: Fraction = 0.8
    random_share: Fraction = 0.1
    keep_share: Fraction = 0.1
    dynamic: bool = Field(default=False, description="new masks in every epoch, drawn when the examples are read")
    whole_words: bool = Field(default=False, description="all pieces of a word are predicted, or none")
    rare_token_exponent: Fraction = Field(
        default=0.0, description="a token is chosen with weight count ** -exponent; 0 chooses uniformly"
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
    tokenizer_dir: Tokenizer = Field(description="folder with the teacher's tokenizer, or of jobs.train_tokenizer")
    mode: Mode = Field(default="card", description="card: pairs of segments; paper: contiguous text")
    max_seq_length: Annotated[int, Field(ge=16, le=4096)] = 512
    short_seq_prob: Fraction = 0.1
    random_next_probability: Fraction = 0.5
    single_sentence_documents: Literal["random", "drop"] = Field(
        default="random",
        description="documents of one sentence have no next one: pair them at random beyond the share, or drop them",
    )
    dupe_factor: Annotated[int, Field(ge=1, le=256)] = 10
    heldout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    min_example_tokens: Annotated[int, Field(ge=3)] = Field(
        default=5, description="shorter examples, special tokens included, are dropped and counted"
    )
    masking: MaskingConfig = MaskingConfig()
    rows_per_shard: Count = 50_000
    chunk_mb: Positive = Field(
        default=8.0, description="stored MB of documents that one task encodes; a run that goes on skips whole parts"
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
    def _defaults_of_the_mode(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("mode", "card") not in _MODES:
            return values
        defaults = dict(_MODES[values.get("mode", "card")])
        masking = defaults.pop("masking", {})
        given = values.get("masking", {})
        if masking and isinstance(given, Mapping):
            defaults["masking"] = {**masking, **given}
            values = {name: value for name, value in values.items() if name != "masking"}
        return {**defaults, **values}
