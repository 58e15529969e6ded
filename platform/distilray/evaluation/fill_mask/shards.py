"""Models over the held-out shards of jobs.encode_corpus, in one process."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask.scoring import Batch, model_dirs, predict
from distilray.evaluation.fill_mask.windows import Ints
from distilray.models.masked_lm import read_model_config
from distilray.pretraining_data.batches import Batch as PaddedBatch
from distilray.pretraining_data.batches import collate, heldout_rows
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet, check_vocabulary
from distilray.pretraining_data.tokenizer import Vocabulary, read_tokenizer, vocabulary_of
from distilray.runtime.progress import Progress


@dataclass(frozen=True)
class MaskScores:
    """One model over all masks.

    Attributes:
        examples: (masks,) row of the example of each mask.
        ranks, losses: (masks,) of the true token.
        best: (masks,) the most probable token.
    """

    examples: Ints
    ranks: Ints
    losses: NDArray[np.float64]
    best: Ints


class HeldoutShards:
    """The held-out split, after a check that all models read the ids of their tokenizer.

    Raises:
        InputError: no complete run, no such split, a changed shard, or a model with another tokenizer.
    """

    def __init__(self, config: EvaluateFillMaskConfig) -> None:
        assert config.shards_dir is not None
        self._config = config
        for folder in model_dirs(config).values():
            tokenizer_json, embeddings = read_tokenizer(folder), read_model_config(folder).vocab_size
            check_vocabulary(config.shards_dir, tokenizer_json, model=folder, embeddings=embeddings)
        self._shards = ShardSet(config.shards_dir, "heldout", verify=True, cache=ShardCache(config.cache))
        self._vocabulary: Vocabulary = vocabulary_of(tokenizer_json)

    @property
    def examples(self) -> int:
        """Examples that are used."""
        return min(len(self._shards), self._config.max_examples or len(self._shards))

    @property
    def masks(self) -> int:
        """Masks of the examples that are used."""
        rows = np.arange(self.examples)
        return int(self._shards.mask_counts(rows, np.zeros_like(rows)).sum())

    def score(self, model: Any, name: str) -> MaskScores:
        """Ranks and losses of the true token at every mask: fill-mask shows the model no original token there."""
        found: list[tuple[Ints, Ints, NDArray[np.float64], Ints]] = []
        size = self._config.batch_size
        with Progress(f"evaluate_fill_mask {name}", total=self.examples, unit="examples") as progress:
            for planned in heldout_rows(self._shards, batch_size=size, limit=self._config.max_examples):
                padded = collate(self._shards, planned, pad_id=self._vocabulary.pad)
                width = padded.input_ids.shape[1]
                batch = _tensors(padded.fully_masked(self._vocabulary.mask))
                found.append((planned.rows[padded.mask_index // width], *predict(model, batch, self._config.precision)))
                progress.advance(len(planned.rows))
        return MaskScores(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def single_batches(self) -> list[Batch]:
        """The first examples, each a batch of its own without padding."""
        rows = np.arange(min(len(self._shards), self._config.latency_examples))
        planned = [PlannedRows(rows[row : row + 1], np.zeros(1, np.int64)) for row in range(len(rows))]
        padded = [collate(self._shards, each, pad_id=self._vocabulary.pad, multiple=1) for each in planned]
        return [_tensors(each.fully_masked(self._vocabulary.mask)) for each in padded]


def _tensors(batch: PaddedBatch) -> Batch:
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids, batch.mask_index, batch.mask_labels)
    return Batch(*map(torch.from_numpy, arrays))
