"""The second phase: parts without their duplicates become the files of documents that the next station reads."""

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
# Readers take parts of a file; a row group is the least that they can read, and what is held here.
_ROW_GROUP_ROWS = 1000
_ROW_GROUP_BYTES = 4 << 20
_SUMS = ("words", "tokens", "residue", "holes")


@dataclass(frozen=True)
class ChunkGroup:
    """Neighbouring parts of one source that are published together."""

    number: int
    source: int
    parts: tuple[int, ...]


@dataclass
class GroupCounts:
    """The counts of a group: what is in its files, and what was dropped from its parts as a duplicate.

    Attributes:
        outputs: by file name: `rows`, `bytes`, `sha256`.
        words_per_document, words_per_sentence: histograms, by the lower bound of the bin.
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


def plan_groups(facts: Iterable[Mapping[str, Any]], *, file_bytes: int) -> list[ChunkGroup]:
    """Groups of parts with about `file_bytes` of documents each, in the order of the corpus."""
    groups: list[tuple[int, list[int]]] = []
    room = 0
    for part in facts:
        if not part["documents"]:
            continue
        if not groups or groups[-1][0] != part["source"] or part["file_bytes"] > room:
            groups.append((part["source"], []))
            room = file_bytes
        groups[-1][1].append(part["number"])
        room -= part["file_bytes"]
    return [ChunkGroup(number, source, tuple(parts)) for number, (source, parts) in enumerate(groups)]


def publish_group(group: ChunkGroup, folder: str, *, file_bytes: int) -> GroupCounts:
    """Write the documents of a group that no duplicate search has dropped, and return their counts."""
    facts = GroupCounts(group.number, group.source)
    files = _Files(folder, group.number, file_bytes)
    found = dropped_rows(folder, group.parts[0], group.parts[-1])
    for part in group.parts:
        dropped = found.get(part, {})
        row = 0
        for table in chunk_tables(folder, part):
            reasons = [dropped.get(number) for number in range(row, row + table.num_rows)]
            row += table.num_rows
            facts.dropped.update(reason for reason in reasons if reason is not None)
            kept = table.filter(pa.array([reason is None for reason in reasons]))
            _count(facts, kept)
            files.add(kept.select(DOCUMENTS.names).cast(DOCUMENTS))
    facts.outputs = files.finish()
    assert facts.documents == sum(entry["rows"] for entry in facts.outputs.values()), "a document was not written"
    assert set(facts.dropped) <= set(DUPLICATE_REASONS)
    return facts


def _count(facts: GroupCounts, kept: pa.Table) -> None:
    facts.documents += kept.num_rows
    facts.sentences += pc.sum(pc.list_value_length(kept["sentences"])).as_py() or 0
    facts.sums.update({name: pc.sum(kept[name]).as_py() or 0 for name in _SUMS})
    words = kept["words"].to_numpy()
    facts.words_per_document.update(_bins(words))
    sentences = pc.list_flatten(kept["sentences"])
    facts.words_per_sentence.update(_bins(np.asarray(pc.add(pc.count_substring(sentences, " "), 1))))


def _bins(words: Any) -> Counter[int]:
    values, counts = np.unique(words, return_counts=True)
    found: Counter[int] = Counter()
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        found[histogram_bin(value)] += count
    return found


class _Files:
    """The files of one group: a new one begins where the last has reached its size."""

    def __init__(self, folder: str, group: int, file_bytes: int) -> None:
        self._folder, self._group, self._file_bytes = folder, group, file_bytes
        self._waiting: list[pa.Table] = []
        self._outputs: dict[str, dict[str, Any]] = {}
        self._file: storage.FileWriter | None = None

    def add(self, documents: pa.Table) -> None:
        """Takes documents in order."""
        self._waiting.append(documents)
        rows, size = (sum(getattr(table, name) for table in self._waiting) for name in ("num_rows", "nbytes"))
        if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            self._write_row_group()

    def finish(self) -> dict[str, dict[str, Any]]:
        """Ends the last file and gives what was written, by file name."""
        self._write_row_group()
        self._end_file()
        return self._outputs

    def _write_row_group(self) -> None:
        documents = pa.concat_tables(self._waiting) if self._waiting else DOCUMENTS.empty_table()
        self._waiting = []
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
            self._end_file()

    def _end_file(self) -> None:
        if self._file is None:
            return
        self._writer.close()
        file, self._file = self._file, None
        file.__exit__(None, None, None)
        self._outputs[self._name] = {"rows": self._rows, "bytes": file.bytes, "sha256": file.sha256}
