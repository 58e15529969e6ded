"""Arrow shards of masked examples: writing, memory-mapped reading, and checks against the manifest and tokenizer."""

import functools
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.config.pretraining_data import MaskingConfig
from distilray.errors import InputError
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.tokenizer import TOKENIZER_FILE, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.outputs import RunOutputs
from distilray.runtime.run_folder import read_manifest
from distilray.schemas import EXAMPLES, check_schema

SHARDS_FOLDER = "shards"
TOKEN_COUNTS_FILE = "token_counts.json"  # noqa: S105
_MAX_OPEN_SHARDS = 128  # every mapped file holds a file descriptor, and the usual limit is 1,024

Rows = NDArray[np.int64]


def write_shard(table: pa.Table, uri: str) -> dict[str, Any]:
    """Write examples as one record batch of an Arrow IPC file, and return the manifest entry."""
    batch = table.select(EXAMPLES.names).cast(EXAMPLES).combine_chunks().to_batches()[0]
    with storage.FileWriter(uri) as file, pa.ipc.new_file(file, EXAMPLES) as writer:
        writer.write_batch(batch)
    tokens = len(batch.column("input_ids").flatten())
    return {"rows": batch.num_rows, "tokens": tokens, "bytes": file.bytes, "sha256": file.sha256}


@dataclass(frozen=True)
class Ragged:
    """List column as two arrays: concatenated values, and (rows + 1,) offsets."""

    values: NDArray[np.uint16]
    offsets: NDArray[np.int32]

    def row(self, index: int) -> NDArray[np.uint16]:
        """Return the values of one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return the lengths of the given rows, (rows,)."""
        return (self.offsets[rows + 1] - self.offsets[rows]).astype(np.int64)


@dataclass(frozen=True)
class Shard:
    """Columns of one shard, as views into the mapped file."""

    example_id: NDArray[np.int64]
    input_ids: Ragged
    segment_b_start: NDArray[np.uint16]
    mask_positions: Ragged
    mask_labels: Ragged
    document_b: NDArray[np.int64]
    trimmed: NDArray[np.uint32]

    @classmethod
    def open(cls, path: str, name: str) -> "Shard":
        """Map a local file into memory. Error messages refer to it as `name`.

        Raises:
            InputError: the file is incomplete or has another schema.
        """
        batch = _mapped_batch(path, name)
        return cls(
            example_id=batch.column("example_id").to_numpy(),
            input_ids=_ragged(batch.column("input_ids")),
            segment_b_start=batch.column("segment_b_start").to_numpy(),
            mask_positions=_ragged(batch.column("mask_positions")),
            mask_labels=_ragged(batch.column("mask_labels")),
            document_b=batch.column("document_b").to_numpy(),
            trimmed=batch.column("trimmed").to_numpy(),
        )


def _mapped_batch(path: str, name: str) -> pa.RecordBatch:
    try:
        reader = pa.ipc.open_file(pa.memory_map(path))
        check_schema(reader.schema, EXAMPLES, name)
        return reader.get_batch(0)
    except InputError:
        raise
    except (ValueError, OSError) as error:  # from Arrow, or from a Ray extension type in the file
        raise InputError(f"{name}: not a complete Arrow file ({error}); run jobs.encode_corpus again") from None


def _ragged(column: pa.ListArray) -> Ragged:
    return Ragged(values=column.values.to_numpy(), offsets=column.offsets.to_numpy())


def read_splits(shards_dir: str) -> set[str]:
    """Return the splits that a run of `jobs.encode_corpus` has written."""
    outputs = read_manifest(shards_dir, "encode_corpus")["content"]["outputs"].values()
    return {entry["split"] for entry in outputs if "split" in entry}


def check_vocabulary(shards_dir: str, tokenizer_json: str, *, model: str, embeddings: int) -> None:
    """Check that shards were encoded with a model's tokenizer, and that the model has an embedding for every id.

    Args:
        shards_dir: run folder of `jobs.encode_corpus`.
        tokenizer_json: tokenizer of the model, from `read_tokenizer`.
        model: name of the model in error messages.
        embeddings: number of word embeddings.

    Raises:
        InputError: with the sizes and hashes of both vocabularies.
    """
    content = read_manifest(shards_dir, "encode_corpus")["content"]
    model_hash, model_ids = tokenizer_hash(tokenizer_json), vocabulary_of(tokenizer_json).size
    shards_hash = content["counts"]["tokenizer_hash"]
    if shards_hash != model_hash:
        shards_ids = vocabulary_of(RunOutputs.from_manifest(shards_dir, content).read(TOKENIZER_FILE).decode()).size
        raise InputError(
            f"{shards_dir}: encoded with tokenizer {shards_hash[:12]} of {shards_ids:,} ids, and {model} has "
            f"{model_hash[:12]} of {model_ids:,}; encode the corpus with tokenizer_dir={model}, or choose shards "
            "encoded with that tokenizer"
        )
    if model_ids > embeddings:
        raise InputError(
            f"{model}: its tokenizer has {model_ids:,} ids, its config.json a vocab_size of {embeddings:,}; choose a "
            "folder whose files belong to the same model"
        )


class ShardSet:
    """Shards of one split of a run of `jobs.encode_corpus`, as one table of rows.

    Shards are mapped on first use, so that memory grows with the number of shards, not with the number of rows.

    Args:
        shards_dir: run folder.
        split: "train" or "heldout".
        tokenizer_hash: hash of the required tokenizer; None accepts any.
        verify: whether to check the content of all shards; see `verify`.
        cache: local cache for the shards of an object store.
        only: names of the shards to use; all by default.

    Attributes:
        names: names of the shards in the manifest.
        shard_rows: number of rows of each shard.
        tokens: number of tokens of all rows.
        masker: draws the masks if they are dynamic; None if the shards contain them.

    Raises:
        InputError: the run is incomplete, a shard is missing or changed, the tokenizer is another one, or the split has
            no rows.
    """

    def __init__(
        self,
        shards_dir: str,
        split: str,
        *,
        tokenizer_hash: str | None = None,
        verify: bool = False,
        cache: ShardCache | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        manifest = read_manifest(shards_dir, "encode_corpus")["content"]
        shards_hash: str = manifest["counts"]["tokenizer_hash"]
        if tokenizer_hash is not None and shards_hash != tokenizer_hash:
            raise InputError(
                f"{shards_dir}: encoded with tokenizer {shards_hash[:12]}, the model has {tokenizer_hash[:12]}; "
                "encode the corpus with the model's own tokenizer"
            )
        entries = {name: entry for name, entry in manifest["outputs"].items() if entry.get("split") == split}
        if only is not None:
            entries = {name: entries[name] for name in only}
        if not entries:
            raise InputError(f"{shards_dir}: no rows in split '{split}'; encode with a larger heldout_fraction")
        self.folder = shards_dir
        self.tokenizer_hash = shards_hash
        self.max_seq_length: int = manifest["config"]["max_seq_length"]
        self.shard_rows: tuple[int, ...] = tuple(entry["rows"] for entry in entries.values())
        self.tokens: int = sum(entry["tokens"] for entry in entries.values())
        self.names: tuple[str, ...] = tuple(entries)
        self._outputs = RunOutputs.from_manifest(shards_dir, manifest)
        self._starts = np.cumsum([0, *self.shard_rows])
        self._cache = cache or ShardCache()
        self._shard = functools.lru_cache(maxsize=_MAX_OPEN_SHARDS)(self._open_shard)
        self._outputs.check_sizes(self.names)
        if verify:
            self.verify(np.arange(len(self)))
        self._seed: int = manifest["config"]["seed"]
        self._masking = MaskingConfig.model_validate(manifest["config"]["masking"])
        self.masker = self.read_masker() if self._masking.dynamic and split == "train" else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def verify(self, rows: Rows) -> None:
        """Check the content of the shards that contain the given rows. Remote shards are checked when downloaded.

        Raises:
            InputError: a shard does not match the manifest.
        """
        if storage.is_local(self.folder):
            self._outputs.check_contents(
                [self.names[shard] for shard in np.unique(self.shard_positions(rows)[0]).tolist()]
            )

    def token_counts(self) -> NDArray[np.int64]:
        """Return the occurrences of each id in the training documents, (vocabulary size,)."""
        return np.array(json.loads(self._outputs.read(TOKEN_COUNTS_FILE))["counts"], np.int64)

    def read_masker(self) -> Masker:
        """Return the masker of the run; its masks of epoch 0 are the static masks of the shards."""
        vocabulary = vocabulary_of(self._outputs.read(TOKENIZER_FILE).decode())
        return Masker(vocabulary, self._masking, self._seed, self.token_counts())

    def table(self, index: int) -> pa.Table:
        """Return a shard as a memory-mapped table of schema `EXAMPLES`."""
        return pa.Table.from_batches([_mapped_batch(*self._file(index))])

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Return the number of tokens of each row, (rows,)."""
        return self._by_shard(rows, lambda shard, local_rows: shard.input_ids.lengths(local_rows))

    def mask_counts(self, rows: Rows, epochs: Rows) -> NDArray[np.int64]:
        """Return the number of tokens to predict in each row in its epoch, (rows,)."""
        if self.masker is None:
            return self._by_shard(rows, lambda shard, local_rows: shard.mask_positions.lengths(local_rows))
        return self.masker.count(epochs=epochs, **self.masker_inputs(self.locate(rows)))

    def example_ids(self, rows: Rows) -> NDArray[np.int64]:
        """Return the example id of each row, (rows,)."""
        return self._by_shard(rows, lambda shard, local_rows: shard.example_id[local_rows])

    def shard_positions(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the shard number of each row, and the row within that shard, both (rows,)."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        return shards, rows - self._starts[shards]

    def locate(self, rows: Rows) -> Sequence[tuple[Shard, int]]:
        """Return each row as an open shard and the row within it."""
        shards, local_rows = self.shard_positions(rows)
        return [(self._shard(shard), row) for shard, row in zip(shards.tolist(), local_rows.tolist(), strict=True)]

    def masker_inputs(self, located: Sequence[tuple[Shard, int]]) -> dict[str, Any]:
        """Return the arguments of `Masker.mask` for located rows."""
        ids = [shard.input_ids.row(row) for shard, row in located]
        return {
            "ids": np.concatenate(ids),
            "offsets": np.cumsum([0, *map(len, ids)]),
            "segment_b_start": np.array([shard.segment_b_start[row] for shard, row in located], np.int64),
            "example_ids": np.array([shard.example_id[row] for shard, row in located], np.int64),
        }

    def start_downloads(self, shards: Sequence[int]) -> None:
        """Start to download shards from an object store in the background."""
        for shard in shards:
            name = self.names[shard]
            self._cache.start_download(storage.join(self.folder, name), self._outputs.entries[name])

    def _by_shard(self, rows: Rows, values: Callable[[Shard, Rows], NDArray[np.int64]]) -> NDArray[np.int64]:
        shards, local_rows = self.shard_positions(rows)
        result = np.empty(len(rows), np.int64)
        for shard in np.unique(shards).tolist():
            selected = shards == shard
            result[selected] = values(self._shard(shard), local_rows[selected])
        return result

    def _open_shard(self, index: int) -> Shard:
        return Shard.open(*self._file(index))

    def _file(self, index: int) -> tuple[str, str]:
        """Return the local file and the URI of a shard."""
        name = self.names[index]
        uri = storage.join(self.folder, name)
        return str(self._cache.path(uri, self._outputs.entries[name])), uri
