"""Corpus-wide duplicate search, divided into independent searches.

Each search reads one column of keys and keeps only one slice of the key space, so that no node needs to hold the keys
of the whole corpus.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.duplicates import exact_duplicates, near_duplicates, rows_with_shared_keys
from distilray.corpus.extraction import chunk_file
from distilray.errors import reading
from distilray.runtime import storage
from distilray.runtime.seeding import UInt64Array

# In the order in which the stages run. Each ignores the documents that earlier stages dropped.
DUPLICATE_REASONS = ("duplicate_id", "exact_duplicate", "near_duplicate")
_DUPLICATES_FOLDER = "work/duplicates"
_SLICE_DOCUMENTS = 4_000_000  # documents per search; their keys take about 100 MB
_ORDINAL_SHIFT = 32
_PAIRS = pa.schema([("dropped", pa.uint64()), ("kept", pa.uint64())])


@dataclass(frozen=True)
class DuplicateSearch:
    """A search among the documents whose key in `column` falls into one slice of the key space."""

    number: int
    reason: str
    column: str
    slice: int
    slices: int

    def file(self, folder: str) -> str:
        """Return the URI of the file with the duplicates that this search finds."""
        name = f"{DUPLICATE_REASONS.index(self.reason)}-{self.reason}-{self.column}-{self.slice:04d}.parquet"
        return storage.join(folder, _DUPLICATES_FOLDER, name)


def plan_searches(config: BuildCorpusConfig, documents: int) -> list[list[DuplicateSearch]]:
    """Return the searches of each stage. Searches within a stage are independent; stages run one after another.

    Args:
        config: recipe with the kinds of duplicates to drop.
        documents: upper bound of the number of documents.
    """
    slices = max(1, -(-documents // _SLICE_DOCUMENTS))
    near = config.duplicates.near
    columns = {
        "duplicate_id": ["id_key"],
        "exact_duplicate": ["text_key"] if config.duplicates.exact else [],
        "near_duplicate": [f"band_{band:02d}" for band in range(near.bands)] if near else [],
    }
    numbers = itertools.count()
    return [
        [
            DuplicateSearch(next(numbers), reason, column, index, slices)
            for column in columns[reason]
            for index in range(slices)
        ]
        for reason in DUPLICATE_REASONS
    ]


def run_search(search: DuplicateSearch, config: BuildCorpusConfig, folder: str, chunks: Sequence[int]) -> int:
    """Write the duplicates that a search finds and return their number."""
    dropped_before = _dropped_before(folder, search.reason)
    ordinals, keys = _read_keys(folder, chunks, search, dropped_before)
    near = config.duplicates.near
    if search.reason != "near_duplicate" or near is None:
        dropped, kept = exact_duplicates(ordinals, keys)
    else:
        rows = rows_with_shared_keys(ordinals, keys)
        ordinals, keys = ordinals[rows], keys[rows]
        order = np.argsort(ordinals)
        ordinals, keys = ordinals[order], keys[order]
        packed = _read_signatures(folder, ordinals, near.bands * near.rows_per_band)
        dropped, kept = near_duplicates(ordinals, keys, packed, threshold=near.threshold)
    with storage.FileWriter(search.file(folder)) as file:
        pq.write_table(pa.table([dropped, kept], schema=_PAIRS), file)
    return len(dropped)


def dropped_rows(folder: str, first: int, last: int) -> dict[int, dict[int, str]]:
    """Return the reasons of the dropped rows in chunks `first` to `last`, by chunk and row."""
    low, high = first << _ORDINAL_SHIFT, (last + 1) << _ORDINAL_SHIFT
    reasons: dict[int, dict[int, str]] = {}
    for uri in storage.list_files(storage.join(folder, _DUPLICATES_FOLDER), ".parquet"):
        reason = uri.rpartition("/")[2].split("-")[1]
        for ordinal in _dropped(uri, low, high).tolist():
            rows = reasons.setdefault(ordinal >> _ORDINAL_SHIFT, {})
            rows.setdefault(ordinal & ((1 << _ORDINAL_SHIFT) - 1), reason)
    return reasons


def chunk_tables(folder: str, chunk: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the documents of a chunk in order, as tables of a few MB."""
    uri = chunk_file(folder, chunk)
    file = _open(uri)
    for group in range(file.num_row_groups):
        with reading(uri):
            table = file.read_row_group(group, columns=columns)
        yield table


def _read_keys(
    folder: str, chunks: Sequence[int], search: DuplicateSearch, dropped_before: UInt64Array
) -> tuple[UInt64Array, UInt64Array]:
    """Return ordinals (rows,) and keys, (rows,) or (rows, 2), of the documents in the slice not dropped before."""
    selected: list[tuple[UInt64Array, UInt64Array]] = []
    for chunk in chunks:
        row = 0
        for table in chunk_tables(folder, chunk, [search.column]):
            keys = _key_values(table[search.column])
            first = np.uint64(chunk) << np.uint64(_ORDINAL_SHIFT)
            ordinals = first + np.arange(row, row + len(keys), dtype=np.uint64)
            row += len(keys)
            slice_keys = keys if keys.ndim == 1 else keys[:, 0]
            in_slice = slice_keys % np.uint64(search.slices) == search.slice
            in_slice &= ~np.isin(ordinals, dropped_before)
            selected.append((ordinals[in_slice], keys[in_slice]))
    return np.concatenate([ordinals for ordinals, _ in selected]), np.concatenate([keys for _, keys in selected])


def _key_values(column: pa.ChunkedArray) -> UInt64Array:
    """Return 8-byte keys as an array (rows,), 16-byte keys as (rows, 2)."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_binary(values.type):
        return np.frombuffer(b"".join(values.to_pylist()), dtype="<u8").reshape(-1, 2)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.uint64)


def _read_signatures(folder: str, ordinals: UInt64Array, length: int) -> NDArray[np.uint8]:
    """Return the packed signatures (rows, length) of documents whose ordinals are in ascending order."""
    signatures = [np.empty((0, length), np.uint8)]
    chunks = (ordinals >> np.uint64(_ORDINAL_SHIFT)).astype(np.int64)
    for chunk in np.unique(chunks).tolist():
        rows = (ordinals[chunks == chunk] & np.uint64((1 << _ORDINAL_SHIFT) - 1)).astype(np.int64)
        first = 0
        for table in chunk_tables(folder, chunk, ["signature"]):
            in_table = rows[(rows >= first) & (rows < first + table.num_rows)] - first
            first += table.num_rows
            values = table["signature"].take(pa.array(in_table)).to_pylist()
            signatures.append(np.frombuffer(b"".join(values), np.uint8).reshape(-1, length))
    return np.concatenate(signatures)


def _dropped_before(folder: str, reason: str) -> UInt64Array:
    """Return the ordinals of the documents that earlier stages dropped."""
    files = storage.list_files(storage.join(folder, _DUPLICATES_FOLDER), ".parquet")
    stage = DUPLICATE_REASONS.index(reason)
    earlier = [uri for uri in files if int(uri.rpartition("/")[2].split("-")[0]) < stage]
    return np.concatenate([np.empty(0, np.uint64), *[_dropped(uri, 0, (1 << 64) - 1) for uri in earlier]])


def _dropped(uri: str, low: int, high: int) -> UInt64Array:
    with reading(uri):
        ordinals = np.asarray(_open(uri).read(columns=["dropped"])["dropped"].to_numpy(), dtype=np.uint64)
    return ordinals[(ordinals >= low) & (ordinals < high)]


def _open(uri: str) -> pq.ParquetFile:
    filesystem, path = storage.filesystem(uri)
    with reading(uri):
        return pq.ParquetFile(filesystem.open_input_file(path))
