"""What a recipe of `jobs.encode_corpus` may say."""

from typing import Annotated

from pydantic import Field, model_validator

from distilray.config.base import Config, JobConfig

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class MaskingConfig(Config):
    """Which tokens are predicted, and what the model sees in their place (model card; BERT section 3.1)."""

    mlm_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    mask_share: Probability = 0.8
    random_share: Probability = 0.1
    keep_share: Probability = 0.1

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "MaskingConfig":
        total = self.mask_share + self.random_share + self.keep_share
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"mask_share + random_share + keep_share must be 1, not {total:g}")
        return self


class EncodeCorpusConfig(JobConfig):
    """Recipe of `jobs.encode_corpus`."""

    corpus_dir: Annotated[str, Field(min_length=1)] = Field(description="run folder of jobs.build_corpus")
    tokenizer_dir: Annotated[str, Field(min_length=1)] = Field(description="folder with the teacher's tokenizer")
    max_seq_length: Annotated[int, Field(ge=16, le=4096)] = 512
    short_seq_prob: Probability = 0.1
    random_next_probability: Probability = 0.5
    random_pool_documents: Count = Field(
        default=4096, description="random segments come from a uniform sample of so many documents of the corpus"
    )
    dupe_factor: Annotated[int, Field(ge=1, le=256)] = 10
    heldout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    masking: MaskingConfig = MaskingConfig()
    rows_per_shard: Count = 50_000
    documents_per_task: Count = 1_000
