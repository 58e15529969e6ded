"""The second phase of encoding: buckets of drafts, in order, become shards of equal size.

What was realised in examples: pairs, lengths, masks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from distilray.pretraining_data.encoded_chunks import unpaired_file
from distilray.pretraining_data.examples import ExampleBuilder
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.shards import SHARDS_FOLDER, write_shard
from distilray.pretraining_data.token_ids import Int64Array
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.pretraining_data.unpaired_examples import read_unpaired
from distilray.runtime import storage

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


_GROUP_ROWS = 200_000  # examples that one task publishes, at least one shard


@dataclass(frozen=True)
class Buckets:
    """Where the drafts of a split lie.

    Attributes:
        parts: numbers of the parts.
        rows: (parts, buckets) drafts.
        edges: (parts, buckets + 1) where the bytes of each bucket begin in the file of a part, and the last ones end.
    """

    split: str
    parts: Int64Array
    rows: Int64Array
    edges: Int64Array

    @classmethod
    def of(cls, split: str, facts: Iterator[Mapping[str, Any]]) -> "Buckets":
        """Return the buckets of a split from the records of all parts."""
        parts, rows, sizes = [], [], []
        for record in facts:
            parts.append(record["number"])
            rows.append(np.array(record[split]["bucket_rows"], np.int64))
            sizes.append(np.array([0, *record[split]["bucket_bytes"]], np.int64))
        return cls(split, np.array(parts), np.stack(rows), np.cumsum(sizes, axis=1))

    @property
    def starts(self) -> Int64Array:
        """(buckets + 1,) the position of the first draft of each bucket in the global order, and the end."""
        return np.concatenate([[0], np.cumsum(self.rows.sum(axis=0))])

    def read(self, bucket: int, folder: str) -> pa.Table:
        """The drafts of a bucket from all parts, in the global order."""

        def read_part(index: int) -> bytes:
            start, stop = self.edges[index, bucket : bucket + 2].tolist()
            uri = unpaired_file(folder, self.split, int(self.parts[index]))
            return storage.read_range(uri, start, stop)

        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            filled = np.flatnonzero(self.rows[:, bucket]).tolist()
            return read_unpaired(list(readers.map(read_part, filled)))


@dataclass(frozen=True)
class ShardGroup:
    """Neighbouring shards that one task writes.

    Attributes:
        edges: positions in the global order where each shard begins, and where the last one ends.
    """

    number: int
    split: str
    edges: tuple[int, ...]


def plan_shard_groups(rows: Mapping[str, int], *, rows_per_shard: int) -> list[ShardGroup]:
    """Shards of equal size, give or take one row, in groups; numbered through all splits."""
    groups: list[ShardGroup] = []
    for split, total in rows.items():
        shards = -(-total // rows_per_shard)
        edges = [total * shard // shards for shard in range(shards + 1)]
        step = max(1, _GROUP_ROWS // rows_per_shard)
        groups += [
            ShardGroup(len(groups) + at // step, split, tuple(edges[at : at + step + 1]))
            for at in range(0, shards, step)
        ]
    return groups


def write_shard_group(
    group: ShardGroup,
    buckets: Buckets,
    completion: ExampleBuilder,
    folder: str,
    *,
    dynamic_masker: Masker | None = None,
) -> dict[str, Any]:
    """Write the shards of a group, and return the outputs and the statistics.

    Args:
        dynamic_masker: masks the examples when they are read.

    Raises:
        InputError: a shard cannot be written, or there is no other document for a segment B.
    """
    outputs: dict[str, Any] = {}
    statistics: Counter[str] = Counter()
    for table in _shards(group, buckets, completion, folder):
        name = f"{SHARDS_FOLDER}/{group.split}-{table['shuffle_key'][0].as_py():016x}.arrow"
        outputs[name] = {"split": group.split, **write_shard(table, storage.join(folder, name))}
        statistics.update(example_statistics(table, completion.vocabulary, dynamic_masker=dynamic_masker))
    return {"number": group.number, "split": group.split, "outputs": outputs, "statistics": dict(statistics)}


def _shards(group: ShardGroup, buckets: Buckets, completion: ExampleBuilder, folder: str) -> Iterator[pa.Table]:
    """The examples of each shard; no more than a bucket and a shard are in memory."""
    starts = buckets.starts
    position, edge = group.edges[0], 1
    waiting: list[pa.Table] = []
    while edge < len(group.edges):
        bucket = int(np.searchsorted(starts, position, side="right")) - 1
        examples = completion.examples(buckets.read(bucket, folder))
        first, end = int(starts[bucket]), int(starts[bucket + 1])
        while edge < len(group.edges) and position < end:
            stop = min(end, group.edges[edge])
            waiting.append(examples.slice(position - first, stop - position))
            position = stop
            if position == group.edges[edge]:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, edge = [], edge + 1
