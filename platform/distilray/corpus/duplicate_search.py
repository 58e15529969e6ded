"""The search for duplicates over all parts: independent searches that each read one column of keys, so that no task
holds more than a slice of the keys of the corpus, and nothing is held on one node.
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

# In this order: what one has dropped is no duplicate for the next.
DUPLICATE_REASONS = ("duplicate_id", "exact_duplicate", "near_duplicate")
_DUPLICATES_FOLDER = "work/duplicates"
_SLICE_DOCUMENTS = 4_000_000  # whose keys one task holds, some 100 MB
_ORDINAL_SHIFT = 32
_FOUND = pa.schema([("dropped", pa.uint64()), ("kept", pa.uint64())])


@dataclass(frozen=True)
class DuplicateSearch:
    """One search: the documents whose `column` falls into a slice of its values."""

    number: int
    reason: str
    column: str
    slice: int
    slices: int

    def file(self, folder: str) -> str:
        """Return the file of the duplicates that it finds."""
        name = f"{DUPLICATE_REASONS.index(self.reason)}-{self.reason}-{self.column}-{self.slice:04d}.parquet"
        return storage.join(folder, _DUPLICATES_FOLDER, name)


def plan_searches(config: BuildCorpusConfig, documents: int) -> list[list[DuplicateSearch]]:
    """The searches of each stage. Those of a stage do not need each other; a stage needs the one before.

    Args:
        config: which duplicates are looked for.
        documents: at most as many are in the parts.
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
            DuplicateSearch(next(numbers), reason, column, part, slices)
            for column in columns[reason]
            for part in range(slices)
        ]
        for reason in DUPLICATE_REASONS
    ]


def run_search(search: DuplicateSearch, config: BuildCorpusConfig, folder: str, parts: Sequence[int]) -> int:
    """Write what a search finds, and return the number of documents that it drops."""
    gone = _dropped_before(folder, search.reason)
    ordinals, keys = _read_keys(folder, parts, search, gone)
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
        pq.write_table(pa.table([dropped, kept], schema=_FOUND), file)
    return len(dropped)


def dropped_rows(folder: str, first: int, last: int) -> dict[int, dict[int, str]]:
    """The rows that are dropped of the parts `first` to `last`, with the reason: by part, then by row."""
    low, high = first << _ORDINAL_SHIFT, (last + 1) << _ORDINAL_SHIFT
    found: dict[int, dict[int, str]] = {}
    for uri in storage.list_files(storage.join(folder, _DUPLICATES_FOLDER), ".parquet"):
        reason = uri.rpartition("/")[2].split("-")[1]
        for ordinal in _dropped(uri, low, high).tolist():
            rows = found.setdefault(ordinal >> _ORDINAL_SHIFT, {})
            rows.setdefault(ordinal & ((1 << _ORDINAL_SHIFT) - 1), reason)
    return found


def chunk_tables(folder: str, part: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The documents of a part in order, as tables of a few MB."""
    uri = chunk_file(folder, part)
    file = _open(uri)
    for group in range(file.num_row_groups):
        with reading(uri):
            table = file.read_row_group(group, columns=columns)
        yield table


def _read_keys(
    folder: str, parts: Sequence[int], search: DuplicateSearch, gone: UInt64Array
) -> tuple[UInt64Array, UInt64Array]:
    """Ordinals (rows,) and keys (rows,) or (rows, 2) of the slice, without the documents that are `gone`."""
    found: list[tuple[UInt64Array, UInt64Array]] = []
    for part in parts:
        row = 0
        for table in chunk_tables(folder, part, [search.column]):
            keys = _key_values(table[search.column])
            ordinals = (np.uint64(part) << np.uint64(_ORDINAL_SHIFT)) + np.arange(row, row + len(keys), dtype=np.uint64)
            row += len(keys)
            leading = keys if keys.ndim == 1 else keys[:, 0]
            wanted = leading % np.uint64(search.slices) == search.slice
            wanted &= ~np.isin(ordinals, gone)
            found.append((ordinals[wanted], keys[wanted]))
    return np.concatenate([ordinals for ordinals, _ in found]), np.concatenate([keys for _, keys in found])


def _key_values(column: pa.ChunkedArray) -> UInt64Array:
    """Keys (rows,) of 8 bytes or (rows, 2) of 16."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_binary(values.type):
        return np.frombuffer(b"".join(values.to_pylist()), dtype="<u8").reshape(-1, 2)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.uint64)


def _read_signatures(folder: str, ordinals: UInt64Array, places: int) -> NDArray[np.uint8]:
    """The packed signatures (rows, places) of documents in ascending order."""
    found = [np.empty((0, places), np.uint8)]
    parts = (ordinals >> np.uint64(_ORDINAL_SHIFT)).astype(np.int64)
    for part in np.unique(parts).tolist():
        rows = (ordinals[parts == part] & np.uint64((1 << _ORDINAL_SHIFT) - 1)).astype(np.int64)
        begin = 0
        for table in chunk_tables(folder, part, ["signature"]):
            inside = rows[(rows >= begin) & (rows < begin + table.num_rows)] - begin
            begin += table.num_rows
            values = table["signature"].take(pa.array(inside)).to_pylist()
            found.append(np.frombuffer(b"".join(values), np.uint8).reshape(-1, places))
    return np.concatenate(found)


def _dropped_before(folder: str, reason: str) -> UInt64Array:
    """Ordinals that the stages before have dropped."""
    files = storage.list_files(storage.join(folder, _DUPLICATES_FOLDER), ".parquet")
    before = [uri for uri in files if int(uri.rpartition("/")[2].split("-")[0]) < DUPLICATE_REASONS.index(reason)]
    return np.concatenate([np.empty(0, np.uint64), *[_dropped(uri, 0, (1 << 64) - 1) for uri in before]])


def _dropped(uri: str, low: int, high: int) -> UInt64Array:
    with reading(uri):
        ordinals = np.asarray(_open(uri).read(columns=["dropped"])["dropped"].to_numpy(), dtype=np.uint64)
    return ordinals[(ordinals >= low) & (ordinals < high)]


def _open(uri: str) -> pq.ParquetFile:
    found, path = storage.filesystem(uri)
    with reading(uri):
        return pq.ParquetFile(found.open_input_file(path))
