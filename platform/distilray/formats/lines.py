"""Lines of files of any size, read in byte ranges."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from distilray.errors import InputError
from distilray.formats.streams import read_chunks, split_suffix, stored_size
from distilray.runtime import storage


@dataclass(frozen=True)
class FileRange:
    """A range of a file that can be read independently.

    Attributes:
        uri: URI of the file.
        name: name of the file, which its documents record.
        start: first byte in the stored file (row group for Parquet).
        end: end (exclusive), in bytes of the stored file (row group for Parquet). A document that starts before `end`
            belongs to the range even if it extends beyond it.
        form: method of reading, such as `streams` or `lines`.
        stored_bytes: size of the range in the stored file.
    """

    uri: str
    name: str
    start: int
    end: int
    form: str
    stored_bytes: int


@dataclass(frozen=True)
class Line:
    """A line without its line feed. `data` is empty if the line is longer than the limit of the reader; see `size`."""

    offset: int
    data: bytes
    size: int


def byte_ranges(uri: str, name: str, *, chunk_bytes: int, divisible: bool = True) -> list[FileRange]:
    """Split a plain file into ranges of at most `chunk_bytes`. A compressed or indivisible file is one range."""
    size = stored_size(uri)
    if split_suffix(uri)[1] or not divisible:
        return [FileRange(uri, name, 0, size, "whole", size)]
    bounds = [(start, min(start + chunk_bytes, size)) for start in range(0, size, chunk_bytes)]
    return [FileRange(uri, name, start, end, "lines", end - start) for start, end in bounds]


def read_lines(file_range: FileRange, *, max_bytes: int, start: int | None = None) -> Iterator[Line]:
    """Yield the lines that start in a range. A trailing CR is kept.

    Args:
        file_range: range from `byte_ranges`.
        max_bytes: longer lines are returned without their data.
        start: offset before the range. If set, read all lines from there to the end of the file; if it is within a
            line, the rest of that line counts as the first line.

    Raises:
        UnreadableError: see `read_chunks`.
    """
    if file_range.form == "whole":
        yield from _split_lines(read_chunks(file_range.uri), 0, max_bytes, range_start=0, range_end=0)
        return
    before = max(file_range.start - 1, 0)  # this byte shows whether a line starts exactly at the range
    offset = before if start is None else start
    first, last = file_range.start, file_range.end
    chunks = read_chunks(file_range.uri, start=offset)
    for line in _split_lines(chunks, offset, max_bytes, range_start=first, range_end=last):
        if start is None and line.offset >= last:
            return
        if start is not None or line.offset >= first:
            yield line


def lines_of(data: bytes) -> Iterator[Line]:
    """Yield the lines of a text in memory, which may end with LF, CR LF or CR."""
    offset = 0
    for line in data.splitlines(keepends=True):
        text = line.rstrip(b"\r\n")
        yield Line(offset, text, len(text))
        offset += len(line)


def first_lines(uri: str, limit: int) -> list[str]:
    """Return up to `limit` nonblank lines from the start of a text file.

    Raises:
        InputError: the file is missing, not UTF-8, or has only blank lines.
    """
    if not storage.exists(uri) or storage.is_folder(uri):
        raise InputError(f"{uri}: no such text file; correct text_path")
    try:
        text = storage.read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    lines = list(islice((line.strip() for line in text.splitlines() if line.strip()), limit))
    if not lines:
        raise InputError(f"{uri}: contains no text; choose another text_path")
    return lines


def _split_lines(
    chunks: Iterable[bytes], offset: int, max_bytes: int, *, range_start: int, range_end: int
) -> Iterator[Line]:
    """Yield the lines of a stream that starts at byte `offset`; stop at a line that spans the whole range."""
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        *completed, rest = chunk.split(b"\n")
        for piece in completed:
            size += len(piece)
            yield Line(offset, b"".join([*pending, piece]) if size <= max_bytes else b"", size)
            offset += size + 1
            pending, size = [], 0
        size += len(rest)
        pending = [*pending, rest] if size <= max_bytes else []
        if offset < range_start and offset + size >= range_end:
            return
    if size:
        yield Line(offset, b"".join(pending), size)
