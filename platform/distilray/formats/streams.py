"""Streaming reads of plain, .gz, .bz2, .xz and .zst files in constant memory."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import fs

from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.runtime import storage

_CHUNK = 1 << 20
_SLICE = 16 << 10  # small, because an error discards all data decompressed from a slice
_XZ_MEMORY = 256 << 20  # `xz -9` needs 65 MiB; zstd itself rejects windows of more than 128 MiB
# Limits for all compressed formats. Text expands about 10-fold; data that expands far more is a decompression bomb.
MAX_EXPANSION = 200
FREE_BYTES = 32 << 20  # always accepted, whatever the stored size
CUT_SHORT = "cut_short"  # reason of a bad row: the file is truncated, and the size of the missing part is unknown


class _GzipDecompressor:
    """gzip with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": _GzipDecompressor,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}
_COMPRESSIONS = (*_DECOMPRESSORS, ".zst")


class _SlicedFile:
    """File for pyarrow that returns a stream in small slices.

    Attributes:
        bytes_read: bytes read so far.
        errors: errors of the disk or network, which pyarrow would report like damaged data.
    """

    closed = False

    def __init__(self, stream: Any) -> None:
        self._slices = _slices(stream)
        self._rest = b""
        self.bytes_read = 0
        self.errors: list[OSError] = []

    def read(self, size: int) -> bytes:
        try:
            self._rest = self._rest or next(self._slices, b"")
        except OSError as error:
            self.errors.append(error)
            raise
        data, self._rest = self._rest[:size], self._rest[size:]
        self.bytes_read += len(data)
        return data

    def close(self) -> None:
        self.closed = True


class UnreadableError(ValueError):
    """The rest of a file cannot be read. `offset` and `lost_bytes` refer to the stored file."""

    def __init__(self, reason: str, detail: str, *, offset: int = 0, lost_bytes: int = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.offset = offset
        self.lost_bytes = lost_bytes

    def bad_row(self, file: str) -> BadRow:
        """Return the error as a bad row of a file."""
        return BadRow(file, self.offset, self.reason, str(self), self.lost_bytes)


class EmptyFileError(InputError):
    """A file is empty. Sources count such files and fail only if all of their files are empty."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"{uri}: the file is empty; remove it, or write it again")


def split_suffix(name: str) -> tuple[str, str, str]:
    """Split `a/b.txt.gz` into `a/b`, `.gz` and `.txt`: stem, compression ("" for none) and suffix."""
    compression = next((ending for ending in _COMPRESSIONS if name.lower().endswith(ending)), "")
    inner = name[: len(name) - len(compression)]
    folder, slash, last = inner.rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    if not dot or not stem:
        return inner, compression, ""
    return f"{folder}{slash}{stem}", compression, f".{suffix.lower()}"


def is_bomb(size: int, read: int, *, free_bytes: int | None = None) -> bool:
    """Return whether `read` stored bytes have expanded more than text ever does.

    Args:
        size: decompressed bytes.
        read: stored bytes.
        free_bytes: decompressed size that is always accepted; default: `FREE_BYTES`.
    """
    return size > max(FREE_BYTES if free_bytes is None else free_bytes, MAX_EXPANSION * read)


def stored_size(uri: str) -> int:
    """Return the size of a file in bytes.

    Raises:
        InputError: the file is missing, or is a folder.
    """
    store, path = storage.filesystem(uri)
    info = store.get_file_info(path)
    if info.type != fs.FileType.File:
        raise InputError(f"{uri}: no such file; correct the path of the source")
    return int(info.size or 0)


def read_chunks(uri: str, *, start: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed according to its suffix; `start` applies to plain files only.

    Raises:
        UnreadableError: the compressed data is damaged, truncated or a bomb. All data before that has been yielded.
    """
    compression = split_suffix(uri)[1]
    if compression:
        with storage.open_stream(uri) as stream:
            if compression in _DECOMPRESSORS:
                yield from _decompressed(stream, _DECOMPRESSORS[compression], stored_size(uri))
            else:
                yield from _zstd_chunks(stream, stored_size(uri))
        return
    with storage.open_file(uri) as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            yield chunk


def read_whole(uri: str, *, max_bytes: int) -> bytes:
    """Return all bytes of a file, decompressed according to its suffix.

    Raises:
        UnreadableError: see `read_chunks`, except that truncation is reported as `compressed_damaged`, because only one
            document is lost. A file of more than `max_bytes` is `too_large` and is not read to its end.
    """
    chunks, size = [], 0
    try:
        for chunk in read_chunks(uri):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise UnreadableError("too_large", f"more than {max_bytes:,} bytes; raise max_document_mb")
    except UnreadableError as error:
        if error.reason == CUT_SHORT:
            raise UnreadableError("compressed_damaged", str(error), offset=error.offset) from None
        raise
    return b"".join(chunks)


def _decompressed(stream: Any, make_decompressor: Callable[[], Any], stored: int) -> Iterator[bytes]:
    engine, consumed, size = make_decompressor(), 0, 0
    between_members = True  # where the file may end
    for data in _slices(stream):
        end = consumed + len(data)
        while data or not between_members:
            data = data.lstrip(b"\0") if between_members else data  # padding is allowed between members
            if between_members and not data:
                break
            try:
                out = engine.decompress(data, _CHUNK)
            except (zlib.error, OSError, lzma.LZMAError) as error:
                raise _damaged(error, consumed, stored) from None
            size += len(out)
            _check_expansion(size, end, consumed, stored)
            if out:
                yield out
            between_members, data = engine.eof, b""
            if between_members:
                data, engine = engine.unused_data, make_decompressor()
            elif len(out) < _CHUNK:
                break
        consumed = end
    if not between_members:
        raise _cut_short(stored)


def _zstd_chunks(stream: Any, stored: int) -> Iterator[bytes]:
    """Yield the decompressed content of all frames of a zstd stream."""
    file = _SlicedFile(stream)
    consumed = size = 0
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as engine:
        while True:
            try:
                out = engine.read(_SLICE)  # small reads, because a failing call loses its output
            except OSError as error:
                if file.errors:
                    raise file.errors[0] from None
                raise (_cut_short(stored) if file.bytes_read >= stored else _damaged(error, consumed, stored)) from None
            if not out:
                return
            size += len(out)
            _check_expansion(size, file.bytes_read, consumed, stored)
            consumed = max(0, file.bytes_read - _SLICE)
            yield out


def _cut_short(stored: int) -> UnreadableError:
    return UnreadableError(CUT_SHORT, "compressed data is cut short; download the file again", offset=stored)


def _damaged(error: Exception, consumed: int, stored: int) -> UnreadableError:
    detail = f"compressed data is damaged ({error}); download the file again"
    return UnreadableError("compressed_damaged", detail, offset=consumed, lost_bytes=stored - consumed)


def _check_expansion(size: int, read: int, consumed: int, stored: int) -> None:
    """Reject a decompression bomb, which expands to `size` bytes from the first `read` stored bytes."""
    if is_bomb(size, read):
        detail = f"expands more than {MAX_EXPANSION}-fold, unlike any text"
        raise UnreadableError("too_large", detail, offset=consumed, lost_bytes=stored - consumed)


def _slices(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield from (chunk[start : start + _SLICE] for start in range(0, len(chunk), _SLICE))
