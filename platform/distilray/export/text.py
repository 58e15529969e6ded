"""Text for comparing formats: masked batches from the lines of a file or from held-out shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.config.export import ExportModelConfig
from distilray.errors import InputError
from distilray.formats.lines import first_lines
from distilray.inference.encoding import length_sorted_batches, pad_batch
from distilray.pretraining_data.batches import Batch, collate, heldout_rows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import Vocabulary, build_tokenizer, vocabulary_of
from distilray.runtime.seeding import generator

MASKED_SHARE = 0.15
_MAX_TOKENS = 4096  # per batch, including padding


@dataclass(frozen=True)
class MaskedBatches:
    """Batches with `[MASK]` at all positions of `mask_index`, and the original ids in `mask_labels`.

    Attributes:
        examples: number of lines or examples in the batches.
        dropped: number of lines without any token to mask.
    """

    batches: Sequence[Batch]
    examples: int
    dropped: int

    @property
    def masks(self) -> int:
        """Number of positions to predict."""
        return sum(len(batch.mask_index) for batch in self.batches)


def masked_text(config: ExportModelConfig, tokenizer_json: str, max_length: int) -> MaskedBatches | None:
    """Return the text that a recipe names, or None if it does not name one.

    Args:
        max_length: maximum number of tokens of the model; longer lines are truncated.

    Raises:
        InputError: the text is missing or contains no word, or the shards are changed.
    """
    if config.text_path is not None:
        lines = first_lines(config.text_path, config.max_examples)
        text = mask_lines(lines, tokenizer_json, max_length=max_length, batch_size=config.batch_size, seed=config.seed)
    elif config.shards_dir is not None:
        text = _heldout_text(config, config.shards_dir, tokenizer_json)
    else:
        return None
    if not text.masks:
        raise InputError(f"{config.text_path or config.shards_dir}: nothing to mask; choose a text with words")
    return text


def mask_lines(
    lines: Sequence[str], tokenizer_json: str, *, max_length: int, batch_size: int, seed: int
) -> MaskedBatches:
    """Return lines as masked batches. In each line, `MASKED_SHARE` of the ordinary tokens, at least one, are masked."""
    vocabulary = vocabulary_of(tokenizer_json)
    encodings = build_tokenizer(tokenizer_json).encode_batch(list(lines), add_special_tokens=False)
    rows = []
    for number, encoding in enumerate(encodings):
        ids = np.array([vocabulary.cls, *encoding.ids[: max_length - 2], vocabulary.sep], dtype=np.int64)
        positions = np.flatnonzero(~np.isin(ids, vocabulary.special))
        if len(positions):
            count = max(1, round(MASKED_SHARE * len(positions)))
            rows.append((ids, np.sort(generator(seed, number).choice(positions, count, replace=False))))
    groups = length_sorted_batches([len(ids) for ids, _ in rows], max_rows=batch_size, max_tokens=_MAX_TOKENS)
    batches = [_batch([rows[row] for row in group], vocabulary) for group in groups]
    return MaskedBatches(batches, len(rows), len(lines) - len(rows))


def _batch(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], vocabulary: Vocabulary) -> Batch:
    input_ids, attention_mask = pad_batch([ids for ids, _ in rows], vocabulary.pad)
    width = input_ids.shape[1]
    index = np.concatenate([row * width + positions for row, (_, positions) in enumerate(rows)])
    labels = input_ids.reshape(-1)[index]
    input_ids.reshape(-1)[index] = vocabulary.mask
    return Batch(input_ids, attention_mask, np.zeros_like(input_ids), index, labels)


def _heldout_text(config: ExportModelConfig, shards_dir: str, tokenizer_json: str) -> MaskedBatches:
    vocabulary = vocabulary_of(tokenizer_json)
    shards = ShardSet(shards_dir, "heldout", verify=True, cache=ShardCache(config.cache))
    rows = heldout_rows(shards, batch_size=config.batch_size, limit=config.max_examples)
    batches = [collate(shards, planned, pad_id=vocabulary.pad).fully_masked(vocabulary.mask) for planned in rows]
    return MaskedBatches(batches, min(len(shards), config.max_examples), 0)
