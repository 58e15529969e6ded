"""Documents in the rows of Parquet files."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distilray.config.corpus import ParquetSource
from distilray.corpus.sources.ranges import RawDocument, selected_columns
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.formats.parquet import ParquetTable, is_text
from distilray.formats.streams import EmptyFileError, UnreadableError, stored_size
from distilray.formats.tables import column_positions

_BATCH_BYTES = 4 << 20
# A dictionary makes a long text that stands in many rows small until it is read. It is kept as one where the column is
# small; the dictionary of a large one would fill the memory, so there few rows at a time have to do.
_MAX_DICTIONARY = 32 << 20
_MAX_BATCH_ROWS = 256


def is_input(name: str) -> bool:
    """Whether a file of a folder is Parquet."""
    return name.lower().endswith((".parquet", ".pq"))


def check_file(source: ParquetSource, uri: str) -> None:
    """Looks at the footer of a file.

    Raises:
        EmptyFileError: there is no row in it.
        InputError: it is missing, or no Parquet; a column of the source is not there or has another type; or a column
            has an extension type, whose reader could run code that the file brings.
    """
    if not stored_size(uri):
        raise EmptyFileError(uri)
    with _opened(uri) as table:
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
    """Neighbouring row groups up to `chunk_bytes` as stored, or one that is larger."""
    ranges: list[FileRange] = []
    if not stored_size(uri):
        return ranges
    with _opened(uri) as table:
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
    source: ParquetSource, part: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """The documents of the rows of a range. The offset of a bad row is that of its row group."""
    with _opened(part.uri, dictionary=_dictionary(source, part)) as table:
        groups = [table.metadata.row_group(number) for number in range(part.end)]
        columns = list(dict.fromkeys(selected_columns(source).values()))
        first_row = sum(group.num_rows for group in groups[: part.start])
        for number, group in enumerate(groups[part.start :], part.start):
            row, offset = first_row, _offset(group)
            try:
                rows = _batch_rows(source, group)
                for batch in table.batches(columns, rows=rows, row_group=number):
                    for document in _documents(source, part.name, batch, row, max_document_bytes):
                        yield document if isinstance(document, RawDocument) else BadRow(part.name, offset, *document)
                    row += batch.num_rows
            except UnreadableError as error:
                detail = f"row group {number:,} from row {row:,} on: {error}; write the file again"
                yield BadRow(part.name, offset, error.reason, detail, _compressed_size(group))
            first_row += group.num_rows


def _opened(uri: str, *, dictionary: list[str] | None = None) -> ParquetTable:
    try:
        return ParquetTable(uri, dictionary=dictionary or ())
    except UnreadableError as error:
        raise InputError(f"{uri}: {error}; write the file again, or set another kind of source") from None


def _text_bytes(source: ParquetSource, group: Any) -> int:
    chunks = (group.column(index) for index in range(group.num_columns))
    text = next(chunk for chunk in chunks if chunk.path_in_schema == source.text_column)
    return int(text.total_uncompressed_size)


def _dictionary(source: ParquetSource, part: FileRange) -> list[str]:
    """The columns to be read as dictionaries: the text, where no row group of the range has much of it."""
    with _opened(part.uri) as table:
        groups = [table.metadata.row_group(number) for number in range(part.start, part.end)]
        largest = max(_text_bytes(source, group) for group in groups)
    return [source.text_column] if largest <= _MAX_DICTIONARY else []


def _batch_rows(source: ParquetSource, group: Any) -> int:
    """The rows of about 4 MiB of text, so that memory does not depend on how the file was written."""
    row_bytes = _text_bytes(source, group) / max(1, group.num_rows)
    return max(1, min(_MAX_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, row_bytes))))


def _documents(
    source: ParquetSource, name: str, batch: pa.RecordBatch, first_row: int, max_bytes: int
) -> Iterator[RawDocument | tuple[str, str]]:
    """The documents of a batch; reason and detail of a row that is none."""
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
                yield "not_utf8", f"row {row:,}: a string that is not UTF-8; write the file again"
                continue
            key = str(values["id_column"]) if values.get("id_column") not in (None, "") else f"{name}:{row}"
            yield RawDocument(key, values.get("title_column") or "", values["text_column"], size)


def _sizes(column: pa.Array) -> list[int | None]:
    """Bytes of each string, None for null, without making strings of them."""
    if pa.types.is_dictionary(column.type):
        return _sizes_of(column.dictionary).take(column.indices).to_pylist()
    return _sizes_of(column).to_pylist()


def _sizes_of(strings: pa.Array) -> pa.Array:
    return pc.binary_length(strings.cast(pa.large_binary()))


def _compressed_size(group: Any) -> int:
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))


def _offset(group: Any) -> int:
    """The byte of the file at which a row group begins."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    return min(min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset) for chunk in chunks)
