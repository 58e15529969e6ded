"""Safe reading of untrusted Parquet files, which may refer to code that pyarrow would execute."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from distilray.formats.streams import UnreadableError
from distilray.runtime import storage

_BUFFER = 1 << 20
_FOOTER_END = 8  # bytes: length of the footer (4) and magic number (4)
_MAX_FOOTER = 256 << 20
_EXTENSION = b"ARROW:extension:name"


class ParquetTable:
    """Context manager for a Parquet file. Errors of the disk or network are raised unchanged.

    Args:
        uri: URI of the file.
        data: content of the file, if it has already been read.
        dictionary: columns to read as dictionaries.

    Raises:
        UnreadableError: the file is not Parquet, or it has a column of an extension type, which could execute code.
    """

    def __init__(self, uri: str, *, data: bytes | None = None, dictionary: Sequence[str] = ()) -> None:
        self._raw = storage.open_file(uri) if data is None else pa.BufferReader(data)
        self._watched = _WatchedFile(self._raw)
        try:
            _check_footer(self._raw)
            with self._translated("not a Parquet file"):
                self._file = pq.ParquetFile(
                    pa.PythonFile(self._watched, mode="r"),
                    read_dictionary=list(dictionary) or None,
                    pre_buffer=False,
                    buffer_size=_BUFFER,
                    page_checksum_verification=True,
                    arrow_extensions_enabled=False,
                )
        except BaseException:
            self._raw.close()
            raise
        self.metadata: Any = self._file.metadata
        self.schema: pa.Schema = self._file.schema_arrow

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._raw.close()

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return the columns for all rows.

        Raises:
            UnreadableError: the data is damaged.
        """
        with self._translated("damaged Parquet data"):
            return self._file.read(columns=list(columns), use_threads=False)

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = 1 << 16, row_group: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the columns of one or all row groups in batches of at most `rows` rows.

        Raises:
            UnreadableError: the data is damaged.
        """
        groups = None if row_group is None else [row_group]
        names = None if columns is None else list(columns)
        with self._translated("damaged Parquet data"):
            yield from self._file.iter_batches(batch_size=rows, row_groups=groups, columns=names, use_threads=False)

    @contextmanager
    def _translated(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if self._watched.errors:
                raise self._watched.errors[0] from None
            reason = " ".join(str(error).split())[:200]
            raise UnreadableError("parquet_damaged", f"{problem} ({reason})") from None


def is_text(data_type: pa.DataType) -> bool:
    """Return whether a column of this type contains strings, possibly dictionary-encoded."""
    value_type = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    is_string = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
    return bool(is_string or pa.types.is_string_view(value_type))


class _WatchedFile:
    """File for pyarrow that records read errors, which pyarrow would report like damaged data."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.errors: list[OSError] = []

    def read(self, size: int = -1) -> bytes:
        try:
            return self._read(size)
        except OSError as error:
            self.errors.append(error)
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


def _check_footer(raw: pa.NativeFile) -> None:
    """Reject extension types before pyarrow passes data from the file to their Python classes."""
    size = raw.size()
    end = raw.read_at(_FOOTER_END, max(0, size - _FOOTER_END))
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or length > min(size, _MAX_FOOTER):
        raise UnreadableError("parquet_damaged", "not a Parquet file")
    footer = raw.read_at(length, size - _FOOTER_END - length)
    if any(text in footer for text in _in_base64(_EXTENSION)):
        raise UnreadableError("parquet_damaged", "contains a column of an extension type, which could execute code")


def _in_base64(word: bytes) -> list[bytes]:
    """Return the base64 encodings of a word for its three possible alignments."""
    encoded = [base64.b64encode(b"\0" * shift + word) for shift in range(3)]
    return [text[(0, 2, 3)[shift] : (shift + len(word)) // 3 * 4] for shift, text in enumerate(encoded)]
