"""Files as chunks of bytes: plain, or .gz, .bz2, .xz and .zst, in memory that does not grow with the file."""

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
_FEED = 16 << 10  # what was decompressed of a slice is lost with the slice, so slices are small
_XZ_MEMORY = 256 << 20  # `xz -9` needs 65 MiB; zstd itself refuses windows of more than 128 MiB
# Limits of compressed data of any kind. Text expands 10-fold; data that expands more than this is a bomb.
MAX_EXPANSION = 200
FREE_BYTES = 32 << 20  # accepted from any file, whatever its size as stored
CUT_SHORT = "cut_short"  # reason of a bad row: the end of a file is missing, and its size is unknown


class _GzipDecompressor:
    """zlib with the interface of `bz2.BZ2Decompressor`."""

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
    """A stream as a file for pyarrow, which gets one small slice at a time.

    Attributes:
        fed: bytes that were read.
        faults: errors of the disk or the network, which otherwise look like those of damaged data.
    """

    closed = False

    def __init__(self, stream: Any) -> None:
        self._slices = _slices(stream)
        self._rest = b""
        self.fed = 0
        self.faults: list[OSError] = []

    def read(self, size: int) -> bytes:
        try:
            self._rest = self._rest or next(self._slices, b"")
        except OSError as error:
            self.faults.append(error)
            raise
        data, self._rest = self._rest[:size], self._rest[size:]
        self.fed += len(data)
        return data

    def close(self) -> None:
        self.closed = True


class UnreadableError(ValueError):
    """The bytes of a file end here, though the file does not. `offset` and `lost_bytes` are of the file as stored."""

    def __init__(self, reason: str, detail: str, *, offset: int = 0, lost_bytes: int = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.offset = offset
        self.lost_bytes = lost_bytes

    def bad_row(self, file: str) -> BadRow:
        """Return the fault as a bad row of a file."""
        return BadRow(file, self.offset, self.reason, str(self), self.lost_bytes)


class EmptyFileError(InputError):
    """A file without content. It is counted, and refused only if all files of its source are empty."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"{uri}: the file is empty; remove it, or write it again")


def split_suffix(name: str) -> tuple[str, str, str]:
    """`a/b.txt`, `.gz` and `.txt` of a name: what stands before, the compression ("" for none), the suffix."""
    compression = next((ending for ending in _COMPRESSIONS if name.lower().endswith(ending)), "")
    inner = name[: len(name) - len(compression)]
    folder, slash, last = inner.rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    if not dot or not stem:
        return inner, compression, ""
    return f"{folder}{slash}{stem}", compression, f".{suffix.lower()}"


def is_bomb(size: int, read: int, *, free_bytes: int | None = None) -> bool:
    """Return whether `read` stored bytes have expanded to more than text does.

    Args:
        size: bytes after decompression.
        read: bytes as stored.
        free_bytes: accepted whatever the expansion; `FREE_BYTES` if left out.
    """
    return size > max(FREE_BYTES if free_bytes is None else free_bytes, MAX_EXPANSION * read)


def stored_size(uri: str) -> int:
    """Bytes of a file.

    Raises:
        InputError: it is missing, or a folder.
    """
    found, path = storage.filesystem(uri)
    info = found.get_file_info(path)
    if info.type != fs.FileType.File:
        raise InputError(f"{uri}: no such file; correct the path of the source")
    return int(info.size or 0)


def read_chunks(uri: str, *, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file, decompressed by its suffix; `start` is for plain files only.

    Raises:
        UnreadableError: the compressed data is damaged, cut short or a bomb; all before that has been given.
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
    """All bytes of a file, decompressed by its suffix.

    Raises:
        UnreadableError: as `read_chunks`, also for a file that is cut short: one document is lost, no more; or
            `too_large`, without reading more than `max_bytes` and a little.
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


def _decompressed(stream: Any, decompressor: Callable[[], Any], stored: int) -> Iterator[bytes]:
    engine, fed, given = decompressor(), 0, 0
    between = True  # at the end of a member, where the file may end
    for data in _slices(stream):
        behind = fed + len(data)
        while data or not between:
            data = data.lstrip(b"\0") if between else data  # padding is allowed between members
            if between and not data:
                break
            try:
                out = engine.decompress(data, _CHUNK)
            except (zlib.error, OSError, lzma.LZMAError) as error:
                raise _damaged(error, fed, stored) from None
            given += len(out)
            _check_expansion(given, behind, fed, stored)
            if out:
                yield out
            between, data = engine.eof, b""
            if between:
                data, engine = engine.unused_data, decompressor()
            elif len(out) < _CHUNK:
                break
        fed = behind
    if not between:
        raise _cut_short(stored)


def _zstd_chunks(stream: Any, stored: int) -> Iterator[bytes]:
    """The content of all frames of a zstd file."""
    file = _SlicedFile(stream)
    fed = size = 0
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as engine:
        while True:
            try:
                out = engine.read(_FEED)  # what a failing call has decompressed is lost
            except OSError as error:
                if file.faults:
                    raise file.faults[0] from None
                raise (_cut_short(stored) if file.fed >= stored else _damaged(error, fed, stored)) from None
            if not out:
                return
            size += len(out)
            _check_expansion(size, file.fed, fed, stored)
            fed = max(0, file.fed - _FEED)
            yield out


def _cut_short(stored: int) -> UnreadableError:
    return UnreadableError(CUT_SHORT, "compressed data is cut short; fetch the file again", offset=stored)


def _damaged(error: Exception, fed: int, stored: int) -> UnreadableError:
    detail = f"compressed data is damaged ({error}); fetch the file again"
    return UnreadableError("compressed_damaged", detail, offset=fed, lost_bytes=stored - fed)


def _check_expansion(size: int, read: int, fed: int, stored: int) -> None:
    """Refuse data that expands like a bomb: to `size` bytes from the first `read` of the file."""
    if is_bomb(size, read):
        detail = f"expands more than {MAX_EXPANSION}-fold, which no text does"
        raise UnreadableError("too_large", detail, offset=fed, lost_bytes=stored - fed)


def _slices(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield from (chunk[at : at + _FEED] for at in range(0, len(chunk), _FEED))
