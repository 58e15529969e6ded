"""Publication: writes the documents that remain after the duplicate search to the output files of the stage."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distilray.corpus.duplicate_search import DUPLICATE_REASONS, chunk_tables, dropped_rows
from distilray.corpus.filters import histogram_bin
from distilray.runtime import storage
from distilray.schemas import DOCUMENTS

DOCUMENTS_FOLDER = "documents"
# A row group is the smallest unit that readers can load, and the most that the writer keeps in memory.
_ROW_GROUP_ROWS = 1000
_ROW_GROUP_BYTES = 4 << 20
_SUMS = ("words", "tokens", "residue", "holes")


@dataclass(frozen=True)
class ChunkGroup:
    """Consecutive chunks of one source that are published together."""

    number: int
    source: int
    chunks: tuple[int, ...]


@dataclass
class GroupCounts:
    """Counts of a group: contents of its files, and duplicates dropped from its chunks.

    Attributes:
        words_per_document, words_per_sentence: histograms by lower bound of the bin.
        outputs: `rows`, `bytes` and `sha256` by file name.
    """

    number: int
    source: int
    documents: int = 0
    sentences: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    words_per_document: Counter[int] = field(default_factory=Counter)
    words_per_sentence: Counter[int] = field(default_factory=Counter)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)


def plan_groups(records: Iterable[Mapping[str, Any]], *, file_bytes: int) -> list[ChunkGroup]:
    """Group consecutive chunks with about `file_bytes` of documents in total.

    Args:
        records: `ChunkCounts` of the chunks, in the order of the corpus.
        file_bytes: target size of a group.
    """
    groups: list[tuple[int, list[int]]] = []
    room = 0  # bytes
    for record in records:
        if not record["documents"]:
            continue
        if not groups or groups[-1][0] != record["source"] or record["file_bytes"] > room:
            groups.append((record["source"], []))
            room = file_bytes
        groups[-1][1].append(record["number"])
        room -= record["file_bytes"]
    return [ChunkGroup(number, source, tuple(chunks)) for number, (source, chunks) in enumerate(groups)]


def publish_group(group: ChunkGroup, folder: str, *, file_bytes: int) -> GroupCounts:
    """Write the documents of a group that are not duplicates, and return their counts."""
    counts = GroupCounts(group.number, group.source)
    files = _OutputFiles(folder, group.number, file_bytes)
    dropped_by_chunk = dropped_rows(folder, group.chunks[0], group.chunks[-1])
    for chunk in group.chunks:
        dropped = dropped_by_chunk.get(chunk, {})
        row = 0
        for table in chunk_tables(folder, chunk):
            reasons = [dropped.get(number) for number in range(row, row + table.num_rows)]
            row += table.num_rows
            counts.dropped.update(reason for reason in reasons if reason is not None)
            kept = table.filter(pa.array([reason is None for reason in reasons]))
            _count(counts, kept)
            files.add(kept.select(DOCUMENTS.names).cast(DOCUMENTS))
    counts.outputs = files.finish()
    assert counts.documents == sum(entry["rows"] for entry in counts.outputs.values()), "a document was not written"
    assert set(counts.dropped) <= set(DUPLICATE_REASONS)
    return counts


def _count(counts: GroupCounts, kept: pa.Table) -> None:
    counts.documents += kept.num_rows
    counts.sentences += pc.sum(pc.list_value_length(kept["sentences"])).as_py() or 0
    counts.sums.update({name: pc.sum(kept[name]).as_py() or 0 for name in _SUMS})
    words = kept["words"].to_numpy()
    counts.words_per_document.update(_histogram(words))
    sentences = pc.list_flatten(kept["sentences"])
    counts.words_per_sentence.update(_histogram(np.asarray(pc.add(pc.count_substring(sentences, " "), 1))))


def _histogram(words: Any) -> Counter[int]:
    values, counts = np.unique(words, return_counts=True)
    bins: Counter[int] = Counter()
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        bins[histogram_bin(value)] += count
    return bins


class _OutputFiles:
    """Output files of one group. A new file is started when the current one has reached `file_bytes`."""

    def __init__(self, folder: str, group: int, file_bytes: int) -> None:
        self._folder, self._group, self._file_bytes = folder, group, file_bytes
        self._buffer: list[pa.Table] = []
        self._outputs: dict[str, dict[str, Any]] = {}
        self._file: storage.FileWriter | None = None

    def add(self, documents: pa.Table) -> None:
        """Append documents. They must be added in order."""
        self._buffer.append(documents)
        rows, size = (sum(getattr(table, name) for table in self._buffer) for name in ("num_rows", "nbytes"))
        if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            self._write_row_group()

    def finish(self) -> dict[str, dict[str, Any]]:
        """Close the last file and return `rows`, `bytes` and `sha256` of each file by name."""
        self._write_row_group()
        self._close_file()
        return self._outputs

    def _write_row_group(self) -> None:
        documents = pa.concat_tables(self._buffer) if self._buffer else DOCUMENTS.empty_table()
        self._buffer = []
        if not documents.num_rows:
            return
        if self._file is None:
            self._name = f"{DOCUMENTS_FOLDER}/documents-{self._group:05d}-{len(self._outputs):03d}.parquet"
            self._file = storage.FileWriter(storage.join(self._folder, self._name))
            self._writer = pq.ParquetWriter(self._file, DOCUMENTS, compression="zstd")
            self._rows = 0
        self._writer.write_table(documents, row_group_size=documents.num_rows)
        self._rows += documents.num_rows
        if self._file.bytes >= self._file_bytes:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is None:
            return
        self._writer.close()
        file, self._file = self._file, None
        file.__exit__(None, None, None)
        self._outputs[self._name] = {"rows": self._rows, "bytes": file.bytes, "sha256": file.sha256}
