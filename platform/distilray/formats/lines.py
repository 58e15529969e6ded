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
        name: name of the file, recorded in its documents.
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


def read_lines(part: FileRange, *, max_bytes: int, start: int | None = None) -> Iterator[Line]:
    """Yield the lines that start in a range. A trailing CR is kept.

    Args:
        part: range from `byte_ranges`.
        max_bytes: longer lines are returned without their data.
        start: read all lines from this offset, which precedes the range, to the end of the file. If it is within a
            line, the rest of that line counts as the first line.

    Raises:
        UnreadableError: see `read_chunks`.
    """
    if part.form == "whole":
        yield from _split_lines(read_chunks(part.uri), 0, max_bytes, mine=0, end=0)
        return
    before = max(part.start - 1, 0)  # to see whether a line starts exactly at the range
    begin = before if start is None else start
    for line in _split_lines(read_chunks(part.uri, start=begin), begin, max_bytes, mine=part.start, end=part.end):
        if start is None and line.offset >= part.end:
            return
        if start is not None or line.offset >= part.start:
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


def _split_lines(chunks: Iterable[bytes], begin: int, max_bytes: int, *, mine: int, end: int) -> Iterator[Line]:
    """Yield the lines of a stream that starts at byte `begin`; stop at a line from before `mine` that reaches `end`."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            size += len(piece)
            yield Line(begin, b"".join([*held, piece]) if size <= max_bytes else b"", size)
            begin += size + 1
            held, size = [], 0
        size += len(rest)
        held = [*held, rest] if size <= max_bytes else []
        if begin < mine and begin + size >= end:
            return
    if size:
        yield Line(begin, b"".join(held), size)
