"""Documents in the rows of Parquet files."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distilray.config.corpus import ParquetSource
from distilray.corpus.sources.raw_documents import RawDocument, selected_columns
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.formats.parquet import ParquetTable, is_text
from distilray.formats.streams import EmptyFileError, UnreadableError, stored_size
from distilray.formats.tables import column_positions

_BATCH_BYTES = 4 << 20
# With dictionary encoding, a long text that is repeated in many rows takes little space until it is expanded, so small
# columns are read as dictionaries. The dictionary of a large column would not fit into memory; it is expanded a few
# rows at a time.
_MAX_DICTIONARY_BYTES = 32 << 20
_MAX_BATCH_ROWS = 256


def is_input(name: str) -> bool:
    return name.lower().endswith((".parquet", ".pq"))


def check_file(source: ParquetSource, uri: str) -> None:
    """Check the footer of a file.

    Raises:
        EmptyFileError: if the file has no rows.
        InputError: if the file is missing or not Parquet, a column of the source is missing or has another type, or a
            column has an extension type (deserializing it could run code from the file).
    """
    if not stored_size(uri):
        raise EmptyFileError(uri)
    with _open(uri) as table:
        if not table.metadata.num_rows:
            raise EmptyFileError(uri)
        schema, columns = table.schema, selected_columns(source)
    column_positions(uri, schema.names, columns)
    for setting, column in columns.items():
        kind = schema.field(column).type
        is_id = setting == "id_column" and pa.types.is_integer(kind)
        if not is_id and not is_text(kind):
            raise InputError(f"{uri}: column '{column}' is {kind}, not string; set {setting} to another column")


def file_ranges(source: ParquetSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """Return ranges of consecutive row groups, each up to `chunk_bytes` as stored or a single larger row group."""
    ranges: list[FileRange] = []
    if not stored_size(uri):
        return ranges
    with _open(uri) as table:
        if not table.metadata.num_rows:
            return ranges
        for number in range(table.metadata.num_row_groups):
            size = _compressed_size(table.metadata.row_group(number))
            if ranges and ranges[-1].stored_bytes + size <= chunk_bytes:
                last = ranges.pop()
                ranges.append(FileRange(uri, name, last.start, number + 1, last.form, last.stored_bytes + size))
            else:
                ranges.append(FileRange(uri, name, number, number + 1, "row_groups", size))
    return ranges


def read_documents(
    source: ParquetSource, file_range: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """Yield the documents of the rows of a range. The offset of a bad row is that of its row group."""
    with _open(file_range.uri, dictionary=_dictionary_columns(source, file_range)) as table:
        groups = [table.metadata.row_group(number) for number in range(file_range.end)]
        columns = list(dict.fromkeys(selected_columns(source).values()))
        first_row = sum(group.num_rows for group in groups[: file_range.start])
        for number, group in enumerate(groups[file_range.start :], file_range.start):
            row, offset = first_row, _offset(group)
            try:
                rows = _batch_rows(source, group)
                for batch in table.batches(columns, rows=rows, row_group=number):
                    for document in _documents(source, file_range.name, batch, row, max_document_bytes):
                        yield (
                            document
                            if isinstance(document, RawDocument)
                            else BadRow(file_range.name, offset, *document)
                        )
                    row += batch.num_rows
            except UnreadableError as error:
                detail = f"row group {number:,} from row {row:,}: {error}; write the file again"
                yield BadRow(file_range.name, offset, error.reason, detail, _compressed_size(group))
            first_row += group.num_rows


def _open(uri: str, *, dictionary: list[str] | None = None) -> ParquetTable:
    try:
        return ParquetTable(uri, dictionary=dictionary or ())
    except UnreadableError as error:
        raise InputError(f"{uri}: {error}; write the file again, or set another kind of source") from None


def _text_bytes(source: ParquetSource, group: Any) -> int:
    chunks = (group.column(index) for index in range(group.num_columns))
    text = next(chunk for chunk in chunks if chunk.path_in_schema == source.text_column)
    return int(text.total_uncompressed_size)


def _dictionary_columns(source: ParquetSource, file_range: FileRange) -> list[str]:
    """Return the columns to read as dictionaries: the text column, if it is small in all row groups of the range."""
    with _open(file_range.uri) as table:
        groups = [table.metadata.row_group(number) for number in range(file_range.start, file_range.end)]
        largest = max(_text_bytes(source, group) for group in groups)
    return [source.text_column] if largest <= _MAX_DICTIONARY_BYTES else []


def _batch_rows(source: ParquetSource, group: Any) -> int:
    """Return the number of rows with about 4 MiB of text, so that memory use is independent of the row group size."""
    row_bytes = _text_bytes(source, group) / max(1, group.num_rows)
    return max(1, min(_MAX_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, row_bytes))))


def _documents(
    source: ParquetSource, name: str, batch: pa.RecordBatch, first_row: int, max_bytes: int
) -> Iterator[RawDocument | tuple[str, str]]:
    """Yield the documents of a batch, and (reason, detail) for each bad row."""
    columns = {setting: batch.column(column) for setting, column in selected_columns(source).items()}
    for index, size in enumerate(_sizes(columns["text_column"])):
        row = first_row + index
        if size is None:
            yield "text_missing", f"row {row:,}: '{source.text_column}' is null"
        elif size > max_bytes:
            yield "too_large", f"row {row:,}: {size:,} bytes; raise max_document_mb"
        else:
            try:
                values = {setting: column[index].as_py() for setting, column in columns.items()}
            except UnicodeDecodeError:
                yield "not_utf8", f"row {row:,}: a string is not UTF-8; write the file again"
                continue
            key = str(values["id_column"]) if values.get("id_column") not in (None, "") else f"{name}:{row}"
            yield RawDocument(key, values.get("title_column") or "", values["text_column"], size)


def _sizes(column: pa.Array) -> list[int | None]:
    """Return the size of each string in bytes (None for null) without creating Python strings."""
    if pa.types.is_dictionary(column.type):
        return _byte_lengths(column.dictionary).take(column.indices).to_pylist()
    return _byte_lengths(column).to_pylist()


def _byte_lengths(strings: pa.Array) -> pa.Array:
    return pc.binary_length(strings.cast(pa.large_binary()))


def _compressed_size(group: Any) -> int:
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))


def _offset(group: Any) -> int:
    """Return the byte offset of a row group in the file."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    return min(min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset) for chunk in chunks)
