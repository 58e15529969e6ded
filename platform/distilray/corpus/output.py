"""Documents into Parquet files of equal size, and the counts of what was kept and dropped."""

import hashlib
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distilray.corpus.documents import documents_of
from distilray.corpus.quality import per_thousand
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.job import Outcome

# Readers take parts of a file; a row group is the least that they can read.
_ROWS_PER_GROUP = 1000
_SUMS = ("words", "sentences_with_holes", "residue", "holes")


class CorpusWriter:
    """Takes cleaned pages in order; every file but the last has `documents_per_file` rows."""

    def __init__(self, folder: str, *, documents_per_file: int) -> None:
        self._folder = folder
        self._rows_per_file = documents_per_file
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._sums: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._outputs: dict[str, dict[str, Any]] = {}
        self.pages = self.documents = self.sentences = 0

    def add(self, outcomes: pa.Table) -> None:
        """Counts cleaned pages and writes the files that they fill."""
        documents = documents_of(outcomes)
        self.pages += outcomes.num_rows
        self.documents += documents.num_rows
        self.sentences += pc.sum(pc.list_value_length(documents["sentences"])).as_py() or 0
        self._dropped.update(outcomes["dropped"].drop_null().to_pylist())
        self._sums.update({name: pc.sum(outcomes[name]).as_py() or 0 for name in _SUMS})
        self._waiting.append(documents)
        self._waiting_rows += documents.num_rows
        while self._waiting_rows >= self._rows_per_file:
            self._write(self._rows_per_file)

    def finish(self) -> Outcome:
        """Writes what is left and says what was done.

        Raises:
            InputError: no page became a document.
        """
        dropped = dict(sorted(self._dropped.items()))
        if not self.documents:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
            raise InputError(
                f"sources: none of {self.pages:,} pages became a document (dropped: {reasons or 'nothing'}); "
                "give another dump or loosen filters"
            )
        if self._waiting_rows:
            self._write(self._waiting_rows)
        assert self.pages == self.documents + sum(dropped.values()), "a page was neither kept nor dropped"
        assert self.documents == sum(entry["rows"] for entry in self._outputs.values()), "a document was not written"
        counts = {
            "pages": self.pages,
            "documents": self.documents,
            "dropped": dropped,
            "sentences": self.sentences,
            "words": self._sums["words"],
            "sentences_dropped": {"formula_or_code": self._sums["sentences_with_holes"]},
            "residue_per_1000_words": per_thousand(self._sums["residue"], self._sums["words"]),
            "holes_per_1000_words": per_thousand(self._sums["holes"], self._sums["words"]),
        }
        summary = (
            f"{self.documents:,} documents of {self.pages:,} pages, {self.sentences:,} sentences, "
            f"{self._sums['words']:,} words"
        )
        return Outcome(summary, counts, self._outputs)

    def _write(self, rows: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        table = waiting.slice(0, rows).combine_chunks()
        self._waiting = [waiting.slice(rows)]
        self._waiting_rows -= rows
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", row_group_size=_ROWS_PER_GROUP)
        data = buffer.getvalue().to_pybytes()
        name = f"documents/documents-{len(self._outputs):05d}.parquet"
        storage.write_bytes(storage.join(self._folder, name), data)
        self._outputs[name] = {"rows": rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
