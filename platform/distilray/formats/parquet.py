"""Parquet files of unknown origin, read without running code that they name."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from distilray.formats.streams import UnreadableError
from distilray.runtime import storage

_BUFFER = 1 << 20
_FOOTER_END = 8  # length of the footer, and the magic bytes
_MAX_FOOTER = 256 << 20
_EXTENSION = b"ARROW:extension:name"


class ParquetTable:
    """A Parquet file; a context manager. Errors of the disk or the network are raised as they are.

    Args:
        uri: of the file.
        data: its content, if it has been read already.
        dictionary: columns to read as dictionaries.

    Raises:
        UnreadableError: it is not Parquet, or it has a column of an extension type, whose reader could run code that
            the file brings.
    """

    def __init__(self, uri: str, *, data: bytes | None = None, dictionary: Sequence[str] = ()) -> None:
        self._raw = storage.open_file(uri) if data is None else pa.BufferReader(data)
        self._watched = _WatchedFile(self._raw)
        try:
            _check_footer(self._raw)
            with self._translated("no Parquet file"):
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
        """Return columns of all rows.

        Raises:
            UnreadableError: the data is damaged.
        """
        with self._translated("damaged Parquet data"):
            return self._file.read(columns=list(columns), use_threads=False)

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = 1 << 16, row_group: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of a row group, or of all, in batches of at most `rows` rows.

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
            if self._watched.faults:
                raise self._watched.faults[0] from None
            reason = " ".join(str(error).split())[:200]
            raise UnreadableError("parquet_damaged", f"{problem} ({reason}); write the file again") from None


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type contains strings, also as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


class _WatchedFile:
    """A file for pyarrow that keeps the errors of reading it, which otherwise look like those of damaged data."""

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


def _check_footer(raw: pa.NativeFile) -> None:
    """Refuse extension types before pyarrow sees them: it asks their Python classes to read what the file says."""
    size = raw.size()
    end = raw.read_at(_FOOTER_END, max(0, size - _FOOTER_END))
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or length > min(size, _MAX_FOOTER):
        raise UnreadableError("parquet_damaged", "no Parquet file; write it again, or set another kind of source")
    footer = raw.read_at(length, size - _FOOTER_END - length)
    if any(text in footer for text in _in_base64(_EXTENSION)):
        detail = "holds a column of an extension type, which may run code; write the file without it"
        raise UnreadableError("parquet_damaged", detail)


def _in_base64(word: bytes) -> list[bytes]:
    """The base64 text of a word, for each of the three offsets at which it can begin."""
    encoded = [base64.b64encode(b"\0" * shift + word) for shift in range(3)]
    return [text[(0, 2, 3)[shift] : (shift + len(word)) // 3 * 4] for shift, text in enumerate(encoded)]
