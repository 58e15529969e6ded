"""Documents in the rows of CSV and TSV files."""

from collections.abc import Iterator

from distilray.config.corpus import CsvSource
from distilray.corpus.sources.other_formats import reject_other_formats
from distilray.corpus.sources.raw_documents import RawDocument, row_document, selected_columns
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, byte_ranges, read_lines
from distilray.formats.streams import EmptyFileError, UnreadableError, read_chunks, split_suffix, stored_size
from distilray.formats.tables import DelimitedRows, column_positions

_SUFFIXES = {".csv", ".tsv", ".tab"}
_TABS = {".tsv", ".tab"}
_MAX_HEADER = 1 << 20
_METADATA_BYTES = 1 << 20  # limit for the fields of a row other than its text


def is_input(name: str) -> bool:
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: CsvSource, uri: str) -> None:
    """Check the header of a file.

    Raises:
        EmptyFileError: if the file has no header.
        InputError: if the file is missing, damaged at its start, or not UTF-8 text, or a column of the source is
            missing.
    """
    size = stored_size(uri)
    try:
        reject_other_formats(uri, next(read_chunks(uri), b""))
        header = _rows(source, FileRange(uri, uri, 0, size, "whole", size), _MAX_HEADER).header()
    except UnreadableError as error:
        raise InputError(f"{uri}: {error}") from None
    if not header:
        raise EmptyFileError(uri)
    _positions(source, uri, header)


def file_ranges(source: CsvSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """Return one range: line breaks may be quoted, so rows can only be located from the start of the file."""
    return byte_ranges(uri, name, chunk_bytes=chunk_bytes, divisible=False)


def read_documents(
    source: CsvSource, file_range: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """Yield the documents of the rows. Offsets are in the decompressed file."""
    rows = _rows(source, file_range, 2 * max_document_bytes + _METADATA_BYTES)
    try:
        header = rows.header()
        if not header:
            return
        positions = _positions(source, file_range.uri, header)
        for row in rows:
            if isinstance(row, BadRow):
                yield row
            else:
                cells = {setting: row.values[position] for setting, position in positions.items()}
                key, title = cells.get("id_column", ""), cells.get("title_column", "")
                yield row_document(row, key, title, cells["text_column"], max_bytes=max_document_bytes)
    except UnreadableError as error:
        yield error.bad_row(file_range.name)


def _rows(source: CsvSource, file_range: FileRange, max_bytes: int) -> DelimitedRows:
    has_tabs = source.kind == "tsv" or split_suffix(file_range.uri)[2] in _TABS
    return DelimitedRows(
        read_lines(file_range, max_bytes=max_bytes),
        file_range.name,
        max_bytes=max_bytes,
        delimiter=source.delimiter or ("\t" if has_tabs else ","),
        quoted=source.quoted,
        stored_bytes=file_range.stored_bytes,
        fix="; correct the quotes of the row, or set quoted: false",
    )


def _positions(source: CsvSource, uri: str, header: list[str]) -> dict[str, int]:
    return column_positions(uri, header, selected_columns(source), fix=", or delimiter if the header was not split")
