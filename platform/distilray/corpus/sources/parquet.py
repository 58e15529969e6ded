"""Documents in the rows of Parquet files."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distilray.config.corpus import ParquetSource
from distilray.corpus.sources.ranges import RawDocument
from distilray.corpus.sources.text import prose
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.formats.streams import EmptyFileError, stored_size
from distilray.runtime import storage

__all__ = ["check_file", "file_ranges", "is_input", "prose", "read_documents"]

_BATCH_BYTES = 4 << 20
_BUFFER = 1 << 20
# A dictionary makes a long text that stands in many rows small until it is read. It is kept as one where the column is
# small; the dictionary of a large one would fill the memory, so there few rows at a time have to do.
_MAX_DICTIONARY = 32 << 20
_MAX_BATCH_ROWS = 256
_FOOTER_END = 8  # length of the footer, and the magic bytes
_MAX_FOOTER = 256 << 20
_EXTENSION = b"ARROW:extension:name"


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
    with _opened(uri) as (file, _):
        if not file.metadata.num_rows:
            raise EmptyFileError(uri)
        schema = file.schema_arrow
        for field, column in _columns(source).items():
            if schema.names.count(column) != 1:
                names = ", ".join(ascii(name)[:60] for name in schema.names[:30]) or "none"
                raise InputError(f"{uri}: no column '{column}', or two; set {field} to one of {names}")
            found = schema.field(column).type
            is_id = field == "id_column" and pa.types.is_integer(found)
            if not is_id and not _is_text(found):
                raise InputError(f"{uri}: column '{column}' is {found}, not string; set {field} to another column")


def file_ranges(source: ParquetSource, uri: str, name: str, *, part_bytes: int) -> list[FileRange]:
    """Neighbouring row groups up to `part_bytes` as stored, or one that is larger."""
    ranges: list[FileRange] = []
    if not stored_size(uri):
        return ranges
    with _opened(uri) as (file, _):
        if not file.metadata.num_rows:
            return ranges
        for number in range(file.num_row_groups):
            size = _compressed_size(file.metadata.row_group(number))
            if ranges and ranges[-1].stored_bytes + size <= part_bytes:
                last = ranges.pop()
                ranges.append(FileRange(uri, name, last.start, number + 1, last.form, last.stored_bytes + size))
            else:
                ranges.append(FileRange(uri, name, number, number + 1, "row_groups", size))
    return ranges


def read_documents(
    source: ParquetSource, part: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """The documents of the rows of a range. The offset of what is refused is that of its row group."""
    with _opened(part.uri, dictionary=_dictionary(source, part)) as (file, faults):
        groups = [file.metadata.row_group(number) for number in range(part.end)]
        first_row = sum(group.num_rows for group in groups[: part.start])
        for number, group in enumerate(groups[part.start :], part.start):
            row = first_row
            try:
                for batch in _batches(source, file, number):
                    refused = partial(BadRow, part.name, _offset(group))
                    yield from _documents(source, part.name, batch, row, max_document_bytes, refused)
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                if faults:  # of the disk or the network, not of the data
                    raise faults[0] from None
                detail = f"row group {number:,} from row {row:,} on: {_one_line(error)}; write the file again"
                yield BadRow(part.name, _offset(group), "parquet_damaged", detail, _compressed_size(group))
            first_row += group.num_rows


class _WatchedFile:
    """A file for pyarrow that keeps the errors of reading it, which else look like those of damaged data."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.faults: list[OSError] = []

    def read(self, size: int = -1) -> bytes:
        try:
            return self._read(size)
        except OSError as error:
            self.faults.append(error)
            raise

    def _read(self, size: int) -> bytes:
        return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)


@contextmanager
def _opened(uri: str, *, dictionary: list[str] | None = None) -> Iterator[tuple[pq.ParquetFile, list[OSError]]]:
    """A Parquet file, and the faults of reading it so far."""
    with storage.open_file(uri) as raw:
        _check_footer(uri, raw)
        watched = _WatchedFile(raw)
        try:
            file = pq.ParquetFile(
                pa.PythonFile(watched, mode="r"),
                read_dictionary=dictionary,
                pre_buffer=False,
                buffer_size=_BUFFER,
                page_checksum_verification=True,
                arrow_extensions_enabled=False,
            )
        except (pa.ArrowException, OSError) as error:
            if watched.faults:
                raise
            raise InputError(f"{uri}: no Parquet file ({_one_line(error)}); write it again") from None
        with file:
            yield file, watched.faults


def _check_footer(uri: str, raw: pa.NativeFile) -> None:
    """Refuses extension types before pyarrow sees them: it asks their Python classes to read what the file says."""
    size = raw.size()
    end = raw.read_at(_FOOTER_END, max(0, size - _FOOTER_END))
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or length > min(size, _MAX_FOOTER):
        raise InputError(f"{uri}: no Parquet file; write it again, or set another kind of source")
    footer = raw.read_at(length, size - _FOOTER_END - length)
    if any(part in footer for part in _in_base64(_EXTENSION)):
        raise InputError(f"{uri}: holds a column of an extension type, which may run code; write the file without it")


def _in_base64(word: bytes) -> list[bytes]:
    """What base64 text shows of a word, for each of the three places in which it can begin."""
    encoded = [base64.b64encode(b"\0" * shift + word) for shift in range(3)]
    return [text[(0, 2, 3)[shift] : (shift + len(word)) // 3 * 4] for shift, text in enumerate(encoded)]


def _columns(source: ParquetSource) -> dict[str, str]:
    """The columns that are read, by the field of the recipe that names them."""
    fields = ("text_column", "title_column", "id_column")
    return {field: getattr(source, field) for field in fields if getattr(source, field) is not None}


def _is_text(found: pa.DataType) -> bool:
    kind = found.value_type if pa.types.is_dictionary(found) else found
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text_chunk(source: ParquetSource, group: Any) -> Any:
    chunks = (group.column(index) for index in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == source.text_column)


def _dictionary(source: ParquetSource, part: FileRange) -> list[str] | None:
    """The columns to be read as dictionaries: the text, where no row group of the range has much of it."""
    with _opened(part.uri) as (file, _):
        groups = [file.metadata.row_group(number) for number in range(part.start, part.end)]
        largest = max(_text_chunk(source, group).total_uncompressed_size for group in groups)
    return [source.text_column] if largest <= _MAX_DICTIONARY else None


def _batches(source: ParquetSource, file: pq.ParquetFile, number: int) -> Iterator[pa.RecordBatch]:
    """A row group in pieces of about 4 MiB, so that memory does not depend on how the file was written."""
    group = file.metadata.row_group(number)
    row_bytes = _text_chunk(source, group).total_uncompressed_size / max(1, group.num_rows)
    rows = max(1, min(_MAX_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, row_bytes))))
    columns = list(dict.fromkeys(_columns(source).values()))
    yield from file.iter_batches(batch_size=rows, row_groups=[number], columns=columns, use_threads=False)


def _documents(
    source: ParquetSource,
    name: str,
    batch: pa.RecordBatch,
    first_row: int,
    max_bytes: int,
    refused: Callable[[str, str], BadRow],
) -> Iterator[RawDocument | BadRow]:
    columns = {field: batch.column(column) for field, column in _columns(source).items()}
    sizes = _sizes(columns["text_column"])
    for index in range(batch.num_rows):
        row = first_row + index
        size = sizes[index]
        if size is None:
            yield refused("text_missing", f"row {row:,}: '{source.text_column}' is null")
        elif size > max_bytes:
            yield refused("too_large", f"row {row:,}: {size:,} bytes; raise max_document_mb")
        else:
            try:
                values = {field: column[index].as_py() for field, column in columns.items()}
            except UnicodeDecodeError:
                yield refused("not_utf8", f"row {row:,}: a string that is not UTF-8; write the file again")
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
