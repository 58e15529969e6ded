"""Lines of files of any size, read in ranges of bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from distilray.errors import InputError
from distilray.formats.streams import read_chunks, split_suffix, stored_size
from distilray.runtime import storage


@dataclass(frozen=True)
class FileRange:
    """A range of a file that can be read without the rest.

    Attributes:
        uri: of the file.
        name: of the file in the provenance of its documents.
        start: first byte of the file as stored (row group for Parquet).
        end: byte behind the last one (row group for Parquet). A document that begins before `end` belongs to the
            range even when it ends behind it.
        form: how the range is read, such as `streams` or `lines`.
        stored_bytes: size of the range in the file as stored.
    """

    uri: str
    name: str
    start: int
    end: int
    form: str
    stored_bytes: int


@dataclass(frozen=True)
class Line:
    """A line without its line feed. `data` is empty when the line is longer than the reader keeps: see `size`."""

    offset: int
    data: bytes
    size: int


def byte_ranges(uri: str, name: str, *, chunk_bytes: int, divisible: bool = True) -> list[FileRange]:
    """Ranges of at most `chunk_bytes` of a plain file; one of a file that is compressed or not `divisible`."""
    size = stored_size(uri)
    if split_suffix(uri)[1] or not divisible:
        return [FileRange(uri, name, 0, size, "whole", size)]
    bounds = [(start, min(start + chunk_bytes, size)) for start in range(0, size, chunk_bytes)]
    return [FileRange(uri, name, start, end, "lines", end - start) for start, end in bounds]


def read_lines(part: FileRange, *, max_bytes: int, start: int | None = None) -> Iterator[Line]:
    """The lines of a range: of a plain file those that begin in it, of a whole file all. CR at the end is kept.

    Args:
        part: from `byte_ranges`.
        max_bytes: longer lines come without their data.
        start: reads from an earlier place than the range begins, in the middle of a line or not; lines from there on
            come too, the first one as if it began there, and so do those behind the end of the range.

    Raises:
        UnreadableError: as `read_chunks`.
    """
    if part.form == "whole":
        yield from _split_lines(read_chunks(part.uri), 0, max_bytes, mine=0, end=0)
        return
    before = max(part.start - 1, 0)  # a line begins behind a line feed
    begin = before if start is None else start
    for line in _split_lines(read_chunks(part.uri, start=begin), begin, max_bytes, mine=part.start, end=part.end):
        if start is None and line.offset >= part.end:
            return
        if start is not None or line.offset >= part.start:
            yield line


def lines_of(data: bytes) -> Iterator[Line]:
    """Yield the lines of a text in memory. They may end with LF, CR LF or CR."""
    offset = 0
    for line in data.splitlines(keepends=True):
        text = line.rstrip(b"\r\n")
        yield Line(offset, text, len(text))
        offset += len(line)


def first_lines(uri: str, limit: int) -> list[str]:
    """Return the first lines of a text file that are not blank.

    Raises:
        InputError: no file there, not UTF-8, or only blank lines.
    """
    if not storage.exists(uri) or storage.is_folder(uri):
        raise InputError(f"{uri}: no such text file; name one as text_path")
    try:
        text = storage.read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 text (byte {error.start}); convert it, or name a plain text") from None
    lines = list(islice((line.strip() for line in text.splitlines() if line.strip()), limit))
    if not lines:
        raise InputError(f"{uri}: no line with text; name another file as text_path")
    return lines


def _split_lines(chunks: Iterable[bytes], begin: int, max_bytes: int, *, mine: int, end: int) -> Iterator[Line]:
    """Yield the lines of a stream that starts at byte `begin`; end at one from before `mine` that reaches `end`."""
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
