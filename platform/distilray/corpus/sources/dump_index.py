"""The index of a multistream dump: lines `offset:page id:title`, in the order of the streams that the offsets begin."""

import re
from bisect import bisect_left
from collections.abc import Iterator

from distilray.corpus.sources.bz2_ranges import StoredFile, find_stream
from distilray.errors import InputError
from distilray.formats.streams import UnreadableError, read_chunks
from distilray.runtime import storage

_MULTISTREAM = re.compile(r"(?P<wiki>.*-multistream)(?P<number>[0-9]*)\.xml(?P<pages>[^/]*)\.bz2(?P<query>(?:\?.*)?)")
_ENDINGS = (".bz2", "")
_MAX_LINE = 64 << 10
_BORDERS_CHECKED = 16  # each costs an object store a request
_FIX = "give the index of this dump, or leave index_path out and take the other index away"


def find_index(uri: str) -> str | None:
    """The index that lies beside a dump under its usual name, None without one."""
    found = _MULTISTREAM.fullmatch(uri)
    if not found:
        return None
    stem = f"{found['wiki']}-index{found['number']}.txt{found['pages']}"
    names = [stem + ending + found["query"] for ending in _ENDINGS]
    return next((name for name in names if storage.exists(name)), None)


def stream_boundaries(index: str, dump: str, *, size: int, chunk_bytes: int) -> list[int]:
    """Offsets of streams, at least `chunk_bytes` apart, from an index that is read in bounded memory.

    Args:
        index: URI of the index, plain or .bz2.
        dump: URI of the dump.
        size: of the dump, in bytes.
        chunk_bytes: the borders are the first streams at or behind each border before and so many bytes.

    Raises:
        InputError: the index cannot be read, or belongs to another dump.
    """
    if storage.is_folder(index) or not storage.exists(index):
        raise InputError(f"{index}: no such file; correct index_path")
    borders: list[int] = []
    last = 0
    for lines in _line_blocks(index):
        last = _offset(index, lines[-1])
        while last >= (wanted := (borders[-1] if borders else 0) + chunk_bytes):
            place = bisect_left(lines, wanted, key=lambda line: _offset(index, line))
            borders.append(_offset(index, lines[place]))
    _check(index, dump, size, [*borders, last])
    return borders


def _line_blocks(index: str) -> Iterator[list[bytes]]:
    """The lines of the index, some thousands at a time."""
    rest = b""
    try:
        for chunk in read_chunks(index):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise InputError(f"{index}: no lines of 'offset:page id:title'; {_FIX}")
            if lines:
                yield lines
    except UnreadableError as error:
        raise InputError(f"{index}: {error}") from None
    if rest:
        yield [rest]


def _offset(index: str, line: bytes) -> int:
    digits = line.partition(b":")[0]
    if not digits.isdigit() or len(digits) > 18:
        raise InputError(f"{index}: a line is not 'offset:page id:title' ({line[:40]!r}); {_FIX}")
    return int(digits)


def _check(index: str, dump: str, size: int, offsets: list[int]) -> None:
    """Looks whether streams begin at some of the offsets, first and last among them."""
    if max(offsets) >= size:
        raise InputError(f"{index}: offset {max(offsets):,} lies behind the end of {dump} ({size:,} bytes); {_FIX}")
    step = -(-len(offsets) // _BORDERS_CHECKED)
    with StoredFile(dump) as stored:
        for offset in {*offsets[::step], offsets[-1]}:
            if find_stream(stored, offset, offset + 1) is None:
                raise InputError(f"{index}: no stream of {dump} begins at offset {offset:,}; {_FIX}")
