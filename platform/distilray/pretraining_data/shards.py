"""Arrow shards of masked examples: written whole, memory-mapped when read, refused when they do not belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.run_folder import read_manifest
from distilray.schemas import EXAMPLES, check_schema

SPLITS = ("train", "heldout")
SHARDS_FOLDER = "shards"


def write_shard(table: pa.Table, uri: str) -> dict[str, Any]:
    """Writes examples as one record batch of an Arrow IPC file and returns its manifest entry."""
    batch = table.select(EXAMPLES.names).cast(EXAMPLES).combine_chunks().to_batches()[0]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, EXAMPLES) as writer:
        writer.write_batch(batch)
    storage.write_bytes(uri, sink.getvalue())
    return {
        "rows": batch.num_rows,
        "tokens": len(batch.column("input_ids").flatten()),
        "bytes": storage.file_size(uri),
        "sha256": storage.sha256(uri),
    }


@dataclass(frozen=True)
class Ragged:
    """A column of lists as two arrays: the values of all rows, and (rows + 1) offsets."""

    values: NDArray[np.uint16]
    offsets: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(rows,) length of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.uint16]:
        """The values of one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Shard:
    """One shard as views into the mapped file."""

    input_ids: Ragged
    segment_b_start: NDArray[np.uint16]
    mask_positions: Ragged
    mask_labels: Ragged

    @classmethod
    def open(cls, uri: str) -> "Shard":
        """Maps a local shard.

        Raises:
            InputError: torn file, or another schema.
        """
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(storage.local_path(uri))))
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{uri}: not an Arrow file ({error}); run jobs.encode_corpus again") from None
        check_schema(reader.schema, EXAMPLES, uri)
        batch = reader.get_batch(0)
        return cls(
            input_ids=_ragged(batch.column("input_ids")),
            segment_b_start=batch.column("segment_b_start").to_numpy(),
            mask_positions=_ragged(batch.column("mask_positions")),
            mask_labels=_ragged(batch.column("mask_labels")),
        )


def _ragged(column: pa.ListArray) -> Ragged:
    return Ragged(values=column.values.to_numpy(), offsets=column.offsets.to_numpy())


class ShardSet:
    """The shards of one split of a run folder of `jobs.encode_corpus`, as one table of rows.

    Args:
        shards_dir: the run folder.
        split: "train" or "heldout".
        tokenizer_hash: refuses shards of another tokenizer; None accepts any.
        verify: compares the sha256 of every shard with the manifest.

    Raises:
        InputError: incomplete run, missing, torn or changed shard, another tokenizer, or no row in the split.
    """

    def __init__(self, shards_dir: str, split: str, *, tokenizer_hash: str | None = None, verify: bool = False) -> None:
        manifest = read_manifest(shards_dir)["content"]
        if manifest["job"] != "encode_corpus":
            raise InputError(f"{shards_dir}: written by {manifest['job']}, not by encode_corpus")
        found = manifest["counts"]["tokenizer_hash"]
        if tokenizer_hash is not None and found != tokenizer_hash:
            raise InputError(
                f"{shards_dir}: encoded with tokenizer {found[:12]}, the model has {tokenizer_hash[:12]}; "
                "encode the corpus with the model's own tokenizer"
            )
        entries = {name: entry for name, entry in manifest["outputs"].items() if entry["split"] == split}
        if not entries:
            raise InputError(f"{shards_dir}: no rows in split '{split}'; encode with a larger heldout_fraction")
        for name, entry in entries.items():
            _check_file(storage.join(shards_dir, name), entry, verify)
        self.tokenizer_hash: str = found
        self.max_seq_length: int = manifest["config"]["max_seq_length"]
        self._shards = [Shard.open(storage.join(shards_dir, name)) for name in entries]
        self._starts = np.cumsum([0, *(entry["rows"] for entry in entries.values())])
        self.lengths = np.concatenate([shard.input_ids.lengths for shard in self._shards])
        self.mask_counts = np.concatenate([shard.mask_positions.lengths for shard in self._shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def label_counts(self, vocabulary_size: int) -> NDArray[np.int64]:
        """(vocabulary_size,) how often each id is to be predicted."""
        counts = [np.bincount(shard.mask_labels.values, minlength=vocabulary_size) for shard in self._shards]
        return np.sum(counts, axis=0)

    def locate(self, rows: NDArray[np.int64]) -> Sequence[tuple[Shard, int]]:
        """Shard and row inside it of each row."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        inside = rows - self._starts[shards]
        return [(self._shards[shard], int(row)) for shard, row in zip(shards, inside, strict=True)]


def _check_file(uri: str, entry: Mapping[str, Any], verify: bool) -> None:
    size = storage.file_size(uri)
    if size != entry["bytes"]:
        raise InputError(f"{uri}: {size} bytes where the manifest says {entry['bytes']}; encode the corpus again")
    if verify and storage.sha256(uri) != entry["sha256"]:
        raise InputError(f"{uri}: its content is not what the manifest says (sha256); encode the corpus again")
