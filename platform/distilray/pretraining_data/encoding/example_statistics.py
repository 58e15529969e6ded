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
    ids, positions, labels = (table[name].combine_chunks() for name in ("input_ids", "mask_positions", "mask_labels"))
    b_start, is_random, example_ids = (
        table[name].to_numpy() for name in ("segment_b_start", "is_random_next", "example_id")
    )
    tokens, offsets = ids.values.to_numpy(), ids.offsets.to_numpy().astype(np.int64)
    lengths, predictions = np.diff(offsets), np.diff(positions.offsets.to_numpy())
    seen = tokens[np.repeat(offsets[:-1], predictions) + positions.flatten().to_numpy()]
    is_mask, is_kept = seen == vocabulary.mask, seen == labels.flatten().to_numpy()
    own = b_start.astype(np.int64) - 2 + np.where(is_random, 0, np.maximum(lengths - b_start - 1, 0))
    if dynamic_masker is not None:
        predictions = dynamic_masker.count(tokens, offsets=offsets, segment_b_start=b_start, example_ids=example_ids)
    bins, sizes = np.unique(lengths // LENGTH_BIN * LENGTH_BIN, return_counts=True)
    return Counter(
        {
            "examples": len(table),
            "tokens": int(lengths.sum()),
            "own_tokens": int(own.sum()),
            "trimmed_tokens": int(table["trimmed"].to_numpy().sum()),
            "random_next": int(is_random.sum()),
            "examples_without_prediction": int((predictions == 0).sum()),
            "predicted": len(seen),
            "predicted_as_mask": int(is_mask.sum()),
            "predicted_as_kept": int((is_kept & ~is_mask).sum()),
            "predicted_as_random": int((~is_kept & ~is_mask).sum()),
            **{f"length_{low:04d}": size for low, size in zip(bins.tolist(), sizes.tolist(), strict=True)},
        }
    )
