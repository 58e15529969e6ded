"""Index of a multistream dump: lines `offset:page id:title`, sorted by the offset of the stream."""

import re
from bisect import bisect_left
from collections.abc import Iterator

from distilray.corpus.sources.bz2_ranges import StoredFile, find_stream
from distilray.errors import InputError
from distilray.formats.streams import UnreadableError, read_chunks
from distilray.runtime import storage

_MULTISTREAM = re.compile(r"(?P<wiki>.*-multistream)(?P<number>[0-9]*)\.xml(?P<pages>[^/]*)\.bz2(?P<query>(?:\?.*)?)")
_SUFFIXES = (".bz2", "")
_MAX_LINE = 64 << 10
_MAX_CHECKED = 16  # offsets; each check is a request to the object store
_FIX = "use the index of this dump, or omit index_path and remove the wrong index"


def find_index(uri: str) -> str | None:
    """Return the index next to a dump under its standard name, or None."""
    dump = _MULTISTREAM.fullmatch(uri)
    if not dump:
        return None
    stem = f"{dump['wiki']}-index{dump['number']}.txt{dump['pages']}"
    names = [stem + suffix + dump["query"] for suffix in _SUFFIXES]
    return next((name for name in names if storage.exists(name)), None)


def stream_boundaries(index: str, dump: str, *, size: int, chunk_bytes: int) -> list[int]:
    """Return offsets of streams that are at least `chunk_bytes` apart. Memory use is bounded.

    Args:
        index: URI of the index, plain or .bz2.
        dump: URI of the dump.
        size: size of the dump in bytes.
        chunk_bytes: each boundary is the first stream at least this far after the previous one.

    Raises:
        InputError: if the index cannot be read or belongs to another dump.
    """
    if storage.is_folder(index) or not storage.exists(index):
        raise InputError(f"{index}: no such file; correct index_path")
    boundaries: list[int] = []
    last = 0
    for lines in _line_blocks(index):
        last = _offset(index, lines[-1])
        while last >= (target := (boundaries[-1] if boundaries else 0) + chunk_bytes):
            position = bisect_left(lines, target, key=lambda line: _offset(index, line))
            boundaries.append(_offset(index, lines[position]))
    _check_offsets(index, dump, size, [*boundaries, last])
    return boundaries


def _line_blocks(index: str) -> Iterator[list[bytes]]:
    """Yield the lines of the index in blocks of several thousand."""
    rest = b""
    try:
        for chunk in read_chunks(index):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise InputError(f"{index}: does not contain lines 'offset:page id:title'; {_FIX}")
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


def _check_offsets(index: str, dump: str, size: int, offsets: list[int]) -> None:
    """Check that streams start at a sample of the offsets, including the first and the last."""
    if max(offsets) >= size:
        raise InputError(f"{index}: offset {max(offsets):,} is beyond the end of {dump} ({size:,} bytes); {_FIX}")
    step = -(-len(offsets) // _MAX_CHECKED)
    with StoredFile(dump) as stored:
        for offset in {*offsets[::step], offsets[-1]}:
            if find_stream(stored, offset, offset + 1) is None:
                raise InputError(f"{index}: no stream of {dump} starts at offset {offset:,}; {_FIX}")
