"""Reader for ranges of the documents of a `jobs.build_corpus` run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.outputs import RunOutputs, verify_file
from distilray.runtime.run_folder import read_manifest
from distilray.schemas import DOCUMENTS, check_schema


@dataclass(frozen=True)
class Corpus:
    """Documents of a corpus, numbered consecutively over all of its files.

    Attributes:
        folder: run folder.
        files: number of rows by file name, in the order of the corpus.
        stored_bytes: size of each file by name.
        words: number of words of all documents.
    """

    folder: str
    files: Mapping[str, int]
    stored_bytes: Mapping[str, int]
    words: int

    @property
    def documents(self) -> int:
        return sum(self.files.values())

    @classmethod
    def open(cls, folder: str) -> "Corpus":
        """Open a corpus by its manifest.

        Raises:
            InputError: the run is incomplete or of another job, the corpus is empty, or a file is missing or truncated.
        """
        content = read_manifest(folder, "build_corpus")["content"]
        outputs = dict(sorted(content["outputs"].items()))
        files = {name: entry["rows"] for name, entry in outputs.items()}
        if not sum(files.values()):
            raise InputError(f"{folder}: the corpus has no documents; use other sources or looser filters")
        RunOutputs.from_manifest(folder, content).check_sizes(outputs)
        stored_bytes = {name: entry["bytes"] for name, entry in outputs.items()}
        return cls(folder, files, stored_bytes, content["counts"]["words"])


def read_sentences(uri: str, start: int, stop: int) -> Iterator[list[list[str]]]:
    """Yield the sentences of the documents [start, stop) of a file, one row group at a time."""
    for table in document_tables(uri, start, stop, columns=["sentences"]):
        yield table.column("sentences").to_pylist()


def document_tables(uri: str, start: int, stop: int, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the documents [start, stop) of a file, one row group at a time; other row groups are not read.

    Args:
        columns: columns of schema `DOCUMENTS`; all by default.

    Raises:
        InputError: the file cannot be read, has another schema, or does not match the manifest of its run.
    """
    verify_file(uri)
    filesystem, path = storage.filesystem(uri)
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            # Ray's extension types contain pickled objects, which would be executed when a value is read.
            check_schema(file.schema_arrow, DOCUMENTS, uri)
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                low, high = max(start, first), min(stop, first + rows)
                if low < high:
                    yield file.read_row_group(group, columns=columns).slice(low - first, high - low)
                first += rows
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: cannot be read ({error}); build the corpus again") from None
