"""Reading of files of any kind of source."""

import bz2
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from distilray.config.corpus import Source
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.formats.bad_rows import BadRow
from tests.tiny.dumps import dump, page

Entries = list[RawDocument | BadRow]
_SOURCES: TypeAdapter[Any] = TypeAdapter(Source)


def source(kind: str, **values: Any) -> Any:
    return _SOURCES.validate_python({"kind": kind, "path": "x", "name": "notes", **values})


def read(
    kind: str, uri: str, *, name: str = "", chunk_bytes: int = 1 << 30, limit: int = 16 << 20, **values: Any
) -> Entries:
    """Return the documents and bad rows of a file, range by range; `name` is the last part of the URI by default."""
    wanted, functions = source(kind, **values), SOURCE_KINDS[kind]
    ranges = functions.file_ranges(wanted, uri, name or Path(uri).name, chunk_bytes=chunk_bytes)
    return [
        entry
        for file_range in ranges
        for entry in functions.read_documents(wanted, file_range, max_document_bytes=limit)
    ]


def check(kind: str, uri: str, **values: Any) -> None:
    SOURCE_KINDS[kind].check_file(source(kind, **values), uri)


def documents(entries: Entries) -> list[RawDocument]:
    return [entry for entry in entries if isinstance(entry, RawDocument)]


def bad_rows(entries: Entries) -> list[BadRow]:
    return [entry for entry in entries if isinstance(entry, BadRow)]


def texts(entries: Entries) -> list[str]:
    """Return the text of each document, and the reason of each bad row."""
    return [entry.text if isinstance(entry, RawDocument) else entry.reason for entry in entries]


def parquet(columns: dict[str, Sequence[Any] | pa.Array], **options: Any) -> bytes:
    """Return a Parquet file with these columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def document_file(kind: str, text: str) -> tuple[str, bytes]:
    """Return the name and the content of a file with one document."""
    rows = f'text\n"{text}"\n'.encode()
    files = {
        "wikipedia": ("a.xml.bz2", bz2.compress(dump(page(1, "A", text)))),
        "books": ("a.txt", text.encode()),
        "parquet": ("a.parquet", parquet({"text": [text]})),
        "jsonl": ("a.jsonl", json.dumps({"text": text}).encode()),
        "csv": ("a.csv", rows),
        "tsv": ("a.tsv", rows),
        "text": ("a.txt", text.encode()),
    }
    return files[kind]


def short_id(value: object) -> str:
    """Return the id of a parameter, which may be the content of a file."""
    return value if isinstance(value, str) else ascii(value)[:40]
