"""Second phase of encoding: writes the buckets in order as shards of equal size, and collects statistics."""

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

LENGTH_BIN = 32  # bin width of the length histogram, in tokens
_GROUP_ROWS = 200_000  # examples written by one task, rounded to whole shards


@dataclass(frozen=True)
class Buckets:
    """Locations of the unpaired examples of a split.

    Attributes:
        chunks: (chunks,) numbers of the chunks.
        rows: (chunks, buckets) number of examples.
        edges: (chunks, buckets + 1) byte offsets of the buckets in the file of each chunk.
    """

    split: str
    chunks: Int64Array
    rows: Int64Array
    edges: Int64Array

    @classmethod
    def of(cls, split: str, records: Iterator[Mapping[str, Any]]) -> "Buckets":
        """Return the buckets of a split from the records of all chunks."""
        chunks, rows, sizes = [], [], []
        for record in records:
            chunks.append(record["number"])
            rows.append(np.array(record[split]["bucket_rows"], np.int64))
            sizes.append(np.array([0, *record[split]["bucket_bytes"]], np.int64))
        return cls(split, np.array(chunks), np.stack(rows), np.cumsum(sizes, axis=1))

    @property
    def starts(self) -> Int64Array:
        """Positions of the buckets in the global order, and the end, (buckets + 1,)."""
        return np.concatenate([[0], np.cumsum(self.rows.sum(axis=0))])

    def read(self, bucket: int, folder: str) -> pa.Table:
        """Read a bucket from the files of all chunks, sorted in the global order."""

        def read_chunk(index: int) -> bytes:
            start, stop = self.edges[index, bucket : bucket + 2].tolist()
            uri = unpaired_file(folder, self.split, int(self.chunks[index]))
            return storage.read_range(uri, start, stop)

        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            filled = np.flatnonzero(self.rows[:, bucket]).tolist()
            return read_unpaired(list(readers.map(read_chunk, filled)))


@dataclass(frozen=True)
class ShardGroup:
    """Consecutive shards, written by one task.

    Attributes:
        edges: (shards + 1,) positions of the shards in the global order, and the end.
    """

    number: int
    split: str
    edges: tuple[int, ...]


def plan_shard_groups(rows: Mapping[str, int], *, rows_per_shard: int) -> list[ShardGroup]:
    """Return groups of shards whose sizes differ by at most one row, numbered consecutively over the splits."""
    groups: list[ShardGroup] = []
    for split, total in rows.items():
        shards = -(-total // rows_per_shard)
        edges = [total * shard // shards for shard in range(shards + 1)]
        step = max(1, _GROUP_ROWS // rows_per_shard)
        groups += [
            ShardGroup(len(groups) + first // step, split, tuple(edges[first : first + step + 1]))
            for first in range(0, shards, step)
        ]
    return groups


def write_shard_group(
    group: ShardGroup, buckets: Buckets, builder: ExampleBuilder, folder: str, *, dynamic_masker: Masker | None = None
) -> dict[str, Any]:
    """Write the shards of a group, and return their manifest entries and statistics.

    Args:
        dynamic_masker: masker that will mask the examples when they are read.

    Raises:
        InputError: a shard cannot be written, or no other document is available for a segment B.
    """
    outputs: dict[str, Any] = {}
    statistics: Counter[str] = Counter()
    for table in _shards(group, buckets, builder, folder):
        name = f"{SHARDS_FOLDER}/{group.split}-{table['shuffle_key'][0].as_py():016x}.arrow"
        outputs[name] = {"split": group.split, **write_shard(table, storage.join(folder, name))}
        statistics.update(example_statistics(table, builder.vocabulary, dynamic_masker=dynamic_masker))
    return {"number": group.number, "split": group.split, "outputs": outputs, "statistics": dict(statistics)}


def _shards(group: ShardGroup, buckets: Buckets, builder: ExampleBuilder, folder: str) -> Iterator[pa.Table]:
    """Yield the examples of each shard; at most one bucket and one shard are in memory."""
    starts = buckets.starts
    position, edge = group.edges[0], 1
    pending: list[pa.Table] = []
    while edge < len(group.edges):
        bucket = int(np.searchsorted(starts, position, side="right")) - 1
        examples = builder.build(buckets.read(bucket, folder))
        first, end = int(starts[bucket]), int(starts[bucket + 1])
        while edge < len(group.edges) and position < end:
            stop = min(end, group.edges[edge])
            pending.append(examples.slice(position - first, stop - position))
            position = stop
            if position == group.edges[edge]:
                yield pa.concat_tables(pending).combine_chunks()
                pending, edge = [], edge + 1


def example_statistics(
    table: pa.Table, vocabulary: Vocabulary, *, dynamic_masker: Masker | None = None
) -> Counter[str]:
    """Return counts of examples, tokens, random pairs, masks by kind, trimmed tokens and lengths.

    `own_tokens` counts the tokens from the document of segment A. `length_<n>` counts the examples with n to
    n + LENGTH_BIN - 1 tokens. Counts of several tables can be added.

    Args:
        dynamic_masker: masker of a table without masks; only examples without predictions are counted, in epoch 0.
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
