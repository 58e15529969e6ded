"""The text that formats are compared on: masked batches from the lines of a file or from held-out shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.config.export import ExportModelConfig
from distilray.errors import InputError
from distilray.formats.lines import first_lines
from distilray.inference.encoding import length_sorted_batches, pad_batch
from distilray.pretraining_data.batches import Batch, heldout_batches
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import Vocabulary, build_tokenizer, vocabulary_of
from distilray.runtime.seeding import generator

MASKED_SHARE = 0.15
_MAX_TOKENS = 4096  # of a batch, padding included


@dataclass(frozen=True)
class MaskedBatches:
    """Batches whose `mask_index` shows `[MASK]` in `input_ids`, with the true ids as `mask_labels`.

    Attributes:
        examples: lines or examples in the batches.
        dropped: lines without any token to mask.
    """

    batches: Sequence[Batch]
    examples: int
    dropped: int

    @property
    def masks(self) -> int:
        """Positions to predict."""
        return sum(len(batch.mask_index) for batch in self.batches)


def masked_text(config: ExportModelConfig, tokenizer_json: str, max_length: int) -> MaskedBatches | None:
    """The text that a recipe names, None when it names none.

    Args:
        max_length: tokens that the model reads; longer lines are cut.

    Raises:
        InputError: no such text, no line with a word, or changed shards.
    """
    if config.text_path is not None:
        lines = first_lines(config.text_path, config.max_examples)
        found = mask_lines(lines, tokenizer_json, max_length=max_length, batch_size=config.batch_size, seed=config.seed)
    elif config.shards_dir is not None:
        found = _of_shards(config, config.shards_dir, tokenizer_json)
    else:
        return None
    if not found.masks:
        raise InputError(f"{config.text_path or config.shards_dir}: nothing there to mask; name a text with words")
    return found


def mask_lines(
    lines: Sequence[str], tokenizer_json: str, *, max_length: int, batch_size: int, seed: int
) -> MaskedBatches:
    """Lines as masked batches: in each a share of the ordinary tokens, at least one, becomes `[MASK]`."""
    vocabulary = vocabulary_of(tokenizer_json)
    encodings = build_tokenizer(tokenizer_json).encode_batch(list(lines), add_special_tokens=False)
    rows = []
    for number, encoding in enumerate(encodings):
        ids = np.array([vocabulary.cls, *encoding.ids[: max_length - 2], vocabulary.sep], dtype=np.int64)
        places = np.flatnonzero(~np.isin(ids, vocabulary.special))
        if len(places):
            count = max(1, round(MASKED_SHARE * len(places)))
            rows.append((ids, np.sort(generator(seed, number).choice(places, count, replace=False))))
    grouped = length_sorted_batches([len(ids) for ids, _ in rows], max_rows=batch_size, max_tokens=_MAX_TOKENS)
    batches = [_batch([rows[row] for row in group], vocabulary) for group in grouped]
    return MaskedBatches(batches, len(rows), len(lines) - len(rows))


def _batch(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], vocabulary: Vocabulary) -> Batch:
    input_ids, attention_mask = pad_batch([ids for ids, _ in rows], vocabulary.pad)
    width = input_ids.shape[1]
    index = np.concatenate([row * width + places for row, (_, places) in enumerate(rows)])
    labels = input_ids.reshape(-1)[index]
    input_ids.reshape(-1)[index] = vocabulary.mask
    return Batch(input_ids, attention_mask, np.zeros_like(input_ids), index, labels)


def _of_shards(config: ExportModelConfig, shards_dir: str, tokenizer_json: str) -> MaskedBatches:
    vocabulary = vocabulary_of(tokenizer_json)
    shards = ShardSet(shards_dir, "heldout", verify=True, cache=ShardCache(config.cache))
    rows = heldout_batches(shards, batch_size=config.batch_size, pad_id=vocabulary.pad, limit=config.max_examples)
    return MaskedBatches(
        [batch.fully_masked(vocabulary.mask) for batch in rows], min(len(shards), config.max_examples), 0
    )
