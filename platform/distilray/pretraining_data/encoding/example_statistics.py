"""What was realised in examples: pairs, lengths, masks."""

from collections import Counter

import numpy as np
import pyarrow as pa

from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.tokenizer import Vocabulary

LENGTH_BIN = 32  # tokens of a bin of the histogram of lengths


def example_statistics(
    table: pa.Table, vocabulary: Vocabulary, *, dynamic_masker: Masker | None = None
) -> Counter[str]:
    """Counts that add up over tables: examples, tokens, random next, masks by kind, trimmed tokens, lengths.

    `own_tokens` are of the document of segment A; `length_<n>` counts the examples of n tokens up to the next bin.

    Args:
        dynamic_masker: masks the examples when they are read; the table has no masks then, and examples without any
            prediction are counted as of the first epoch.
    """
    batch = table.combine_chunks()
    ids = batch.column("input_ids").combine_chunks()
    positions = batch.column("mask_positions").combine_chunks()
    starts, counts = ids.offsets.to_numpy()[:-1], np.diff(positions.offsets.to_numpy())
    where = np.repeat(starts, counts) + positions.flatten().to_numpy()
    seen = ids.values.to_numpy()[where]
    labels = batch.column("mask_labels").combine_chunks().flatten().to_numpy()
    is_mask, is_kept = seen == vocabulary.mask, seen == labels
    lengths = np.diff(ids.offsets.to_numpy())
    b_start, is_random = (batch.column(name).to_numpy() for name in ("segment_b_start", "is_random_next"))
    b_tokens = np.maximum(lengths - b_start - 1, 0)
    own = b_start.astype(np.int64) - 2 + np.where(is_random, 0, b_tokens)
    predictions = counts
    if dynamic_masker is not None:
        predictions = dynamic_masker.count(
            ids.values.to_numpy(),
            offsets=ids.offsets.to_numpy().astype(np.int64),
            segment_b_start=b_start,
            example_ids=batch.column("example_id").to_numpy(),
        )
    bins, sizes = np.unique(lengths // LENGTH_BIN * LENGTH_BIN, return_counts=True)
    return Counter(
        {
            "examples": len(batch),
            "tokens": int(lengths.sum()),
            "own_tokens": int(own.sum()),
            "trimmed_tokens": int(batch.column("trimmed").to_numpy().sum()),
            "random_next": int(is_random.sum()),
            "examples_without_prediction": int((predictions == 0).sum()),
            "predicted": len(labels),
            "predicted_as_mask": int(is_mask.sum()),
            "predicted_as_kept": int((is_kept & ~is_mask).sum()),
            "predicted_as_random": int((~is_kept & ~is_mask).sum()),
            **{f"length_{low:04d}": size for low, size in zip(bins.tolist(), sizes.tolist(), strict=True)},
        }
    )
