"""Arrow shards of masked examples: written whole, memory-mapped when read, refused when they do not belong together."""

import json
from collections import OrderedDict
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
_OPEN_SHARDS = 128  # a mapped file keeps a descriptor; a process may have about a thousand

Rows = NDArray[np.int64]


def write_shard(table: pa.Table, uri: str) -> dict[str, Any]:
    """Writes examples as one record batch of an Arrow IPC file and returns its manifest entry."""
    batch = table.select(EXAMPLES.names).cast(EXAMPLES).combine_chunks().to_batches()[0]
    with storage.FileWriter(uri) as file, pa.ipc.new_file(file, EXAMPLES) as writer:
        writer.write_batch(batch)
    tokens = len(batch.column("input_ids").flatten())
    return {"rows": batch.num_rows, "tokens": tokens, "bytes": file.bytes, "sha256": file.sha256}


@dataclass(frozen=True)
class Ragged:
    """A column of lists as two arrays: the values of all rows, and (rows + 1) offsets."""

    values: NDArray[np.uint16]
    offsets: NDArray[np.int32]

    def row(self, index: int) -> NDArray[np.uint16]:
        """The values of one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """(rows,) length of each of some rows."""
        return (self.offsets[rows + 1] - self.offsets[rows]).astype(np.int64)


@dataclass(frozen=True)
class Shard:
    """One shard as views into the mapped file."""

    example_id: NDArray[np.int64]
    input_ids: Ragged
    segment_b_start: NDArray[np.uint16]
    mask_positions: Ragged
    mask_labels: Ragged
    document_b: NDArray[np.int64]
    trimmed: NDArray[np.uint32]

    @classmethod
    def open(cls, path: str, name: str) -> "Shard":
        """Maps a local file; `name` is the shard's in messages.

        Raises:
            InputError: torn file, or another schema.
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
    except (ValueError, OSError) as error:  # of Arrow, or of a type of Ray that the file names
        raise InputError(f"{name}: not a whole Arrow file ({error}); run jobs.encode_corpus again") from None


def _ragged(column: pa.ListArray) -> Ragged:
    return Ragged(values=column.values.to_numpy(), offsets=column.offsets.to_numpy())


def read_splits(shards_dir: str) -> set[str]:
    """The splits that a run of `jobs.encode_corpus` holds."""
    outputs = _shards_content(shards_dir)["outputs"].values()
    return {entry["split"] for entry in outputs if "split" in entry}


def check_vocabulary(shards_dir: str, tokenizer_json: str, *, model: str, embeddings: int) -> None:
    """Check that shards hold the ids of a model: those of its tokenizer, and no more than it has embeddings.

    Args:
        shards_dir: run folder of `jobs.encode_corpus`.
        tokenizer_json: of the model, from `read_tokenizer`.
        model: its name in messages.
        embeddings: rows of its word embeddings.

    Raises:
        InputError: naming both vocabularies, with sizes and hashes.
    """
    content = _shards_content(shards_dir)
    own, size = tokenizer_hash(tokenizer_json), vocabulary_of(tokenizer_json).size
    found = content["counts"]["tokenizer_hash"]
    if found != own:
        other = vocabulary_of(RunOutputs.of(shards_dir, content).read(TOKENIZER_FILE).decode()).size
        raise InputError(
            f"{shards_dir}: encoded with tokenizer {found[:12]} of {other:,} ids, and {model} has {own[:12]} of "
            f"{size:,}; encode the corpus with tokenizer_dir={model}, or name the shards of that tokenizer"
        )
    if size > embeddings:
        raise InputError(
            f"{model}: its tokenizer has {size:,} ids, its config.json a vocab_size of {embeddings:,}; name a folder "
            "whose files are of one model"
        )


def _shards_content(shards_dir: str) -> dict[str, Any]:
    content: dict[str, Any] = read_manifest(shards_dir)["content"]
    if content["job"] != "encode_corpus":
        raise InputError(f"{shards_dir}: written by {content['job']}, not by encode_corpus; correct shards_dir")
    return content


class ShardSet:
    """The shards of one split of a run folder of `jobs.encode_corpus`, as one table of rows.

    Shards are mapped when a row of theirs is asked for; what is in memory grows with their number, not with the rows.

    Args:
        shards_dir: the run folder.
        split: "train" or "heldout".
        tokenizer_hash: refuses shards of another tokenizer; None accepts any.
        verify: whether to check the content of every shard, as `verify` does.
        cache: where shards of an object store are kept on this machine.
        only: names of some of its shards; all when left out.

    Attributes:
        names: of the shards, as the manifest has them.
        shard_rows: rows of each shard.
        tokens: of all rows.
        masker: draws the masks when they are dynamic, None when the shards hold them.

    Raises:
        InputError: incomplete run, missing, torn or changed shard, another tokenizer, or no row in the split.
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
        manifest = _shards_content(shards_dir)
        found = manifest["counts"]["tokenizer_hash"]
        if tokenizer_hash is not None and found != tokenizer_hash:
            raise InputError(
                f"{shards_dir}: encoded with tokenizer {found[:12]}, the model has {tokenizer_hash[:12]}; "
                "encode the corpus with the model's own tokenizer"
            )
        entries = {name: entry for name, entry in manifest["outputs"].items() if entry.get("split") == split}
        if only is not None:
            entries = {name: entries[name] for name in only}
        if not entries:
            raise InputError(f"{shards_dir}: no rows in split '{split}'; encode with a larger heldout_fraction")
        self.folder = shards_dir
        self.tokenizer_hash: str = found
        self.max_seq_length: int = manifest["config"]["max_seq_length"]
        self.shard_rows: tuple[int, ...] = tuple(entry["rows"] for entry in entries.values())
        self.tokens: int = sum(entry["tokens"] for entry in entries.values())
        self.names: tuple[str, ...] = tuple(entries)
        self._outputs = RunOutputs.of(shards_dir, manifest)
        self._starts = np.cumsum([0, *self.shard_rows])
        self._cache = cache or ShardCache()
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._outputs.check_sizes(self.names)
        if verify:
            self.verify(np.arange(len(self)))
        self._seed: int = manifest["config"]["seed"]
        self._masking = MaskingConfig.model_validate(manifest["config"]["masking"])
        self.masker = self.read_masker() if self._masking.dynamic and split == "train" else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def verify(self, rows: Rows) -> None:
        """Check the content of the shards that hold some rows; those of an object store are checked when fetched.

        Raises:
            InputError: a shard is not what its manifest says.
        """
        if storage.is_local(self.folder):
            self._outputs.check_contents(
                [self.names[shard] for shard in np.unique(self.shard_positions(rows)[0]).tolist()]
            )

    def token_counts(self) -> NDArray[np.int64]:
        """(vocabulary size,) how often each id occurs in the train documents."""
        return np.array(json.loads(self._outputs.read(TOKEN_COUNTS_FILE))["counts"], np.int64)

    def read_masker(self) -> Masker:
        """Return the masker of the run: with epoch 0 it draws the masks that its shards hold, if they hold any."""
        vocabulary = vocabulary_of(self._outputs.read(TOKENIZER_FILE).decode())
        return Masker(vocabulary, self._masking, self._seed, self.token_counts())

    def table(self, index: int) -> pa.Table:
        """Return the rows of a shard, mapped from its file, in schema `EXAMPLES`."""
        return pa.Table.from_batches([_mapped_batch(*self._file(index))])

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """(rows,) tokens of each row."""
        return self._by_shard(rows, lambda shard, inside: shard.input_ids.lengths(inside))

    def mask_counts(self, rows: Rows, epochs: Rows) -> NDArray[np.int64]:
        """(rows,) tokens to predict in each row in its epoch."""
        if self.masker is None:
            return self._by_shard(rows, lambda shard, inside: shard.mask_positions.lengths(inside))
        return self.masker.count(epochs=epochs, **self.masker_inputs(self.locate(rows)))

    def example_ids(self, rows: Rows) -> NDArray[np.int64]:
        """(rows,) id of the example in each row."""
        return self._by_shard(rows, lambda shard, inside: shard.example_id[inside])

    def shard_positions(self, rows: Rows) -> tuple[Rows, Rows]:
        """(rows,) number of the shard of each row, and the row inside it."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        return shards, rows - self._starts[shards]

    def locate(self, rows: Rows) -> Sequence[tuple[Shard, int]]:
        """Shard and row inside it of each row."""
        shards, inside = self.shard_positions(rows)
        return [(self._shard(shard), row) for shard, row in zip(shards.tolist(), inside.tolist(), strict=True)]

    def masker_inputs(self, found: Sequence[tuple[Shard, int]]) -> dict[str, Any]:
        """Located rows as `Masker` takes them."""
        ids = [shard.input_ids.row(row) for shard, row in found]
        return {
            "ids": np.concatenate(ids),
            "offsets": np.cumsum([0, *map(len, ids)]),
            "segment_b_start": np.array([shard.segment_b_start[row] for shard, row in found], np.int64),
            "example_ids": np.array([shard.example_id[row] for shard, row in found], np.int64),
        }

    def fetch(self, shards: Sequence[int]) -> None:
        """Begins to bring shards of an object store to this machine."""
        for shard in shards:
            name = self.names[shard]
            self._cache.begin(storage.join(self.folder, name), self._outputs.entries[name])

    def _by_shard(self, rows: Rows, values: Callable[[Shard, Rows], NDArray[np.int64]]) -> NDArray[np.int64]:
        shards, inside = self.shard_positions(rows)
        found = np.empty(len(rows), np.int64)
        for shard in np.unique(shards).tolist():
            here = shards == shard
            found[here] = values(self._shard(shard), inside[here])
        return found

    def _shard(self, index: int) -> Shard:
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        self._open[index] = Shard.open(*self._file(index))
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[index]

    def _file(self, index: int) -> tuple[str, str]:
        """Return the local file of a shard, and its URI."""
        name = self.names[index]
        uri = storage.join(self.folder, name)
        return str(self._cache.path(uri, self._outputs.entries[name])), uri
