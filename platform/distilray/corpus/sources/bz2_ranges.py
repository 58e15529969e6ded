"""Reading bz2 from the middle: whole streams, found by their header, or single blocks of one huge stream.

A bz2 file is a row of streams, each of `BZh` and a digit, blocks, and a footer. A block begins at any bit, with 48 bits
that spell pi, holds a checksum of its own and needs nothing of the other blocks (bzip2 1.0 file format). Text is given
only after the checksum of its block was right, so that damage never looks like text.
"""

import bz2
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Self

from distilray.formats import streams
from distilray.formats.bad_rows import BadRow
from distilray.formats.streams import UnreadableError
from distilray.runtime import storage

_CHUNK = 1 << 20
_CHUNKS_KEPT = 4  # blocks are looked for ahead of the one that is decoded
_FEED = 16 << 10  # what a damaged slice would still have given is lost, so slices are small
_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_STREAM_BYTES = 10
_BLOCK_MARK = 0x314159265359  # pi
_END_MARK = 0x177245385090  # its square root
_MARK_BITS = 48
_FOOTER_BITS = _MARK_BITS + 32  # the mark and the checksum of the stream
_MAX_BLOCK_BYTES = 4 << 20  # 900 kB of any text stay far below it
_TAIL_TEXT = 64  # bytes of text that tell how a dump ends

_MAX_BLOCK_TEXT = 48 << 20  # what bzip2 can make of a block of one repeated letter
_FREE_BYTES_OF_A_RANGE = 1 << 30  # accepted from all streams or blocks of a range together


@dataclass(frozen=True)
class TextSpan:
    """Text that follows the piece before it.

    Attributes:
        offset: where the stream or block that holds it begins in the stored file; of the first byte when `exact`.
        data: may be empty: what comes next is at `offset`, for a reader that wants no more from there on.
        exact: the text is stored as it is.
    """

    offset: int
    data: bytes
    exact: bool = False


class StoredFile:
    """The bytes of a file by their offset; a context manager. The last few chunks of 1 MiB that were read are kept."""

    def __init__(self, uri: str) -> None:
        self._file = storage.open_file(uri)
        self._chunks: dict[int, bytes] = {}
        self.size: int = self._file.size()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file."""
        end = min(offset + length, self.size)
        data = []
        while offset < end:
            number, begin = divmod(offset, _CHUNK)
            data.append(self._chunk(number)[begin : begin + end - offset])
            offset += len(data[-1])
        return data[0] if len(data) == 1 else b"".join(data)

    def _chunk(self, number: int) -> bytes:
        if number not in self._chunks:
            while len(self._chunks) >= _CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
            chunk = self._file.read_at(min(_CHUNK, self.size - number * _CHUNK), number * _CHUNK)
            if not chunk:
                raise OSError(f"the file has become shorter than {number * _CHUNK:,} bytes while it was read")
            self._chunks[number] = chunk
        return self._chunks[number]


def find_stream(stored: StoredFile, start: int, end: int) -> int | None:
    """Where the first stream begins in the bytes `start` to `end` of a file, None when none does."""
    for offset in range(start, end, _CHUNK):
        behind = min(offset + _CHUNK, end)
        if found := _STREAM.search(stored.read(offset, behind - offset + _STREAM_BYTES - 1)):
            return offset + found.start()
    return None


@dataclass
class _Meter:
    """Bytes of text that a range gave so far; against many small bombs."""

    start: int
    given: int = 0

    def is_over(self, position: int) -> bool:
        return streams.is_bomb(self.given, position - self.start, free_bytes=_FREE_BYTES_OF_A_RANGE)


def read_streams(stored: StoredFile, name: str, start: int, end: int) -> Iterator[TextSpan | BadRow]:
    """The text of the streams from the first on that begins in `start` to `end`, on to the end of the file.

    A stream that breaks off is told behind its text, and the next one follows.

    Args:
        stored: a bz2 file.
        name: of the file, in what is told.
        start: first byte of the range.
        end: byte behind the last one.
    """
    meter = _Meter(start)
    position = find_stream(stored, start, end)
    while position is not None and stored.size - position >= _STREAM_BYTES:  # fewer bytes are not found as a stream
        yield TextSpan(position, b"")
        if meter.is_over(position):
            yield _bombs(name, position, end)
            return
        try:
            position = yield from _stream_text(stored, position, meter)
        except UnreadableError as error:
            behind = find_stream(stored, position + 1, stored.size) or stored.size
            yield BadRow(name, position, error.reason, str(error), behind - error.offset)
            position = behind


def read_blocks(stored: StoredFile, name: str, start: int, end: int) -> Iterator[TextSpan | BadRow]:
    """The text of the blocks from the first on that begins at or behind byte `start`, on to the end of the file.

    A block that cannot be read is told, and the next one follows. Arguments as in `read_streams`.
    """
    meter = _Meter(start)
    marks = _block_marks(stored, start)
    ahead = list(islice(marks, 2))
    while len(ahead) > 1:
        position = ahead[0] // 8
        yield TextSpan(position, b"")
        if meter.is_over(position):
            yield _bombs(name, position, end)
            return
        used = 1
        try:
            text = _block_text(stored, ahead[0], ahead[1])
            if text is None and (further := next(marks, None)) is not None:
                ahead.append(further)  # the mark in between may stand in the block by chance
                text = _block_text(stored, ahead[0], further)
                used = 1 if text is None else 2
        except UnreadableError as error:
            yield BadRow(name, position, error.reason, str(error), ahead[1] // 8 - position)
        else:
            if text is None:
                yield BadRow(name, position, "bz2_damaged", "a bz2 block is damaged", ahead[1] // 8 - position)
            else:
                meter.given += len(text)
                yield TextSpan(position, text)
        ahead = ahead[used:]
        ahead += islice(marks, max(2 - len(ahead), 0))


def last_text(stored: StoredFile) -> bytes | None:
    """The last bytes of text of a bz2 file, some 64 or all that there is; None when the file is cut short.

    Raises:
        UnreadableError: the last block is damaged.
    """
    footer_at = stored.size - _FOOTER_BITS // 8 - 1
    footer = stored.read(max(footer_at, 0), _FOOTER_BITS // 8 + 1)
    if not any((bit + _FOOTER_BITS + 7) // 8 == len(footer) for bit in _find_marks(footer, _END_MARK)):
        return None
    *marks, end = _block_marks(stored, max(stored.size - _MAX_BLOCK_BYTES, 0))
    tail = b""
    for mark in reversed(marks):
        text = _block_text(stored, mark, end)
        if text is None and not tail:
            raise UnreadableError("bz2_damaged", "the last block of the bz2 data is damaged")
        tail = (text or b"") + tail
        end = mark
        if text is None or len(tail) >= _TAIL_TEXT:
            break
    return tail[-_TAIL_TEXT:]


def _stream_text(stored: StoredFile, start: int, meter: _Meter) -> Generator[TextSpan, None, int]:
    """The text of the stream at `start`; returns where the stream ends.

    Raises:
        UnreadableError: its `offset` is about where the last whole block ends.
    """
    decoder = bz2.BZ2Decompressor()
    end = whole_end = start
    given = 0
    held = bytearray()
    while not decoder.eof:
        data = stored.read(end, _FEED) if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise UnreadableError("bz2_damaged", "the bz2 data is cut short", offset=whole_end)
        end += len(data)
        try:
            text = decoder.decompress(data, _CHUNK)
        except OSError as error:
            raise UnreadableError("bz2_damaged", f"a bz2 stream is damaged ({error})", offset=whole_end) from None
        held += text
        given += len(text)
        meter.given += len(text)
        if streams.is_bomb(given, end - start) or len(held) > _MAX_BLOCK_TEXT:
            detail = f"a bz2 stream expands more than {streams.MAX_EXPANSION}-fold; no text does"
            raise UnreadableError("bz2_bomb", detail, offset=whole_end)
        # Output with room left, of a decoder that asks for input, ends where a block ends and its checksum was right.
        if held and (decoder.eof or (decoder.needs_input and len(text) < _CHUNK)):
            whole, held, whole_end = bytes(held), bytearray(), end
            yield TextSpan(start, whole)
    return end - len(decoder.unused_data)


def _block_marks(stored: StoredFile, start: int) -> Iterator[int]:
    """The bits at which blocks begin, from byte `start` on, and behind them the end of the file."""
    for offset in range(start, stored.size, _CHUNK):
        found = _find_marks(stored.read(offset, _CHUNK + _MARK_BITS // 8), _BLOCK_MARK)
        yield from (8 * offset + bit for bit in found if bit < 8 * _CHUNK)
    yield 8 * stored.size


def _find_marks(data: bytes, mark: int) -> list[int]:
    """The bits of `data` at which a mark of 48 bits begins."""
    found = []
    for shift in range(8):
        inner = (mark << 8 - shift).to_bytes(7, "big")[1:6]  # the bytes that the mark fills wherever it stands
        at = data.find(inner, 1)
        while at >= 0:
            around = int.from_bytes(data[at - 1 : at + 6].ljust(7, b"\0"), "big")
            if around >> 8 - shift & (1 << _MARK_BITS) - 1 == mark:
                found.append(8 * (at - 1) + shift)
            at = data.find(inner, at + 1)
    return sorted(found)


def _block_text(stored: StoredFile, begin: int, end: int) -> bytes | None:
    """The text of the block in the bits `begin` to `end`, where a footer may follow it; None when it is damaged."""
    first, behind = begin // 8, -(-end // 8)
    if behind - first > _MAX_BLOCK_BYTES:
        return None
    data = stored.read(first, behind - first)
    begin, end = begin - 8 * first, end - 8 * first
    text = _decode_block(data, begin, end)
    if text is None:
        cuts = (bit for bit in _find_marks(data, _END_MARK) if begin < bit < end)
        text = next((text for cut in cuts if (text := _decode_block(data, begin, cut)) is not None), None)
    return text


def _decode_block(data: bytes, begin: int, end: int) -> bytes | None:
    """A block as a stream of its own: the checksum of a stream of one block is that of the block."""
    bits = end - begin
    if bits < _FOOTER_BITS:
        return None
    block = int.from_bytes(data, "big") >> 8 * len(data) - end & (1 << bits) - 1
    checksum = block >> bits - _FOOTER_BITS & 0xFFFFFFFF
    size = bits + _FOOTER_BITS
    stream = (block << _FOOTER_BITS | _END_MARK << 32 | checksum) << -size % 8
    decoder = bz2.BZ2Decompressor()
    try:
        text = decoder.decompress(b"BZh9" + stream.to_bytes((size + 7) // 8, "big"), streams.FREE_BYTES + 1)
    except OSError:
        return None
    if len(text) > streams.FREE_BYTES:
        raise UnreadableError(
            "bz2_bomb", f"a bz2 block holds more than {streams.FREE_BYTES >> 20} MiB; none of text does"
        )
    return text if decoder.eof else None


def _bombs(name: str, position: int, end: int) -> BadRow:
    detail = f"the bz2 data expands more than {streams.MAX_EXPANSION}-fold again and again; no text does"
    return BadRow(name, position, "bz2_bomb", detail, max(end - position, 0))
