"""Documents in JSON Lines files."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any

from distilray.config.corpus import JsonLinesSource
from distilray.corpus.sources.other_formats import reject_other_formats
from distilray.corpus.sources.raw_documents import RawDocument, row_document, selected_columns
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, byte_ranges, read_lines
from distilray.formats.streams import EmptyFileError, UnreadableError, read_chunks, split_suffix, stored_size
from distilray.formats.tables import Row, json_rows

_SUFFIXES = {".jsonl", ".json", ".ndjson"}
_HEAD_BYTES = 1 << 20
_FIRST_LINES = 100  # lines searched for the title column, which some documents may lack
_FIX = "write one JSON object per line"


def is_input(name: str) -> bool:
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: JsonLinesSource, uri: str) -> None:
    """Check the first lines of a file.

    Raises:
        EmptyFileError: if the file has no lines.
        InputError: if the file is missing or damaged at its start, its first line is not an object or lacks the text
            or id column, or none of the first lines has the title column.
    """
    stored_size(uri)
    head, is_complete = _head(uri)
    lines = [line for line in head.split(b"\n") if line.strip()][:_FIRST_LINES]
    if not lines:
        raise EmptyFileError(uri)
    reject_other_formats(uri, head)
    if not lines[0].lstrip().startswith(b"{"):
        raise InputError(f"{uri}: the first line is not a JSON object; {_FIX}")
    if is_complete or b"\n" in head.lstrip():  # otherwise, the first line is incomplete
        _check_keys(source, uri, lines)


def file_ranges(source: JsonLinesSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """Return byte ranges, or one range if the file is compressed."""
    return byte_ranges(uri, name, chunk_bytes=chunk_bytes)


def read_documents(
    source: JsonLinesSource, file_range: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """Yield the documents of the lines that start in a range. Offsets are in the decompressed file."""
    # Escapes take up to six bytes per byte of text. The size of the text itself is checked later.
    max_bytes = 6 * max_document_bytes
    try:
        for row in json_rows(read_lines(file_range, max_bytes=max_bytes), file_range.name, max_bytes=max_bytes):
            yield row if isinstance(row, BadRow) else _document(source, row, max_document_bytes)
    except UnreadableError as error:
        yield error.bad_row(file_range.name)


def _head(uri: str) -> tuple[bytes, bool]:
    """Return the first bytes of a file, and whether they are the complete file."""
    head = bytearray()
    try:
        for chunk in read_chunks(uri):
            head += chunk
            if len(head) >= _HEAD_BYTES:
                return bytes(head).removeprefix(BOM_UTF8), False
    except UnreadableError as error:
        if not head:
            raise InputError(f"{uri}: {error}") from None
        return bytes(head).removeprefix(BOM_UTF8), False
    return bytes(head).removeprefix(BOM_UTF8), True


def _check_keys(source: JsonLinesSource, uri: str, lines: list[bytes]) -> None:
    try:
        first = json.loads(lines[0].decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{uri}: the first line is not JSON ({error}); {_FIX}") from None
    for field, column in selected_columns(source).items():
        if field != "title_column" and column not in first:
            raise InputError(f"{uri}: no '{column}' in the first line; set {field} to one of {_names(first)}")
    title = source.title_column
    if title is not None and title not in first and not any(json.dumps(title).encode() in line for line in lines):
        raise InputError(f"{uri}: no '{title}' in the first lines; set title_column to one of {_names(first)}")


def _names(first: dict[str, Any]) -> str:
    return ", ".join(ascii(name)[:60] for name in list(first)[:30]) or "none: the object is empty"


def _document(source: JsonLinesSource, row: Row, max_bytes: int) -> RawDocument | BadRow:
    text = row.values.get(source.text_column)
    if not isinstance(text, str):
        return row.reject("text_missing", f"'{source.text_column}' {_problem(row.values, source.text_column)}")
    title = row.values.get(source.title_column)
    key = _key(row.values.get(source.id_column))
    return row_document(row, key, title if isinstance(title, str) else "", text, max_bytes=max_bytes)


def _key(value: object) -> str:
    """Return an id as text; empty unless it is a string or an integer."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _problem(values: dict[str, Any], column: str) -> str:
    return f"is {type(values[column]).__name__}, not a string" if column in values else "is missing"
