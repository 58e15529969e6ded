"""Random access to bz2 files, by whole streams or by single blocks of one large stream.

A bz2 file is a sequence of streams, each with a header (`BZh` and a digit), blocks and a footer. A block starts at any
bit, with 48 bits that spell pi, has its own checksum, and can be decoded without the other blocks (bzip2 1.0 file
format). Text is returned only after the checksum of its block was verified, so damaged data is never returned.
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

_BUFFER_BYTES = 1 << 20
_CACHED_BUFFERS = 4  # the search for blocks runs ahead of decoding
_FEED_BYTES = 16 << 10  # decoder input; small, because all output of damaged input is lost
_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_STREAM_BYTES = 10
_BLOCK_MARK = 0x314159265359  # pi
_END_MARK = 0x177245385090  # square root of pi
_MARK_BITS = 48
_FOOTER_BITS = _MARK_BITS + 32  # mark and checksum of the stream
_MAX_BLOCK_BYTES = 4 << 20  # generous: a block contains 900 kB before compression
_TAIL_TEXT = 64  # bytes; enough to recognize the end of a dump

_MAX_BLOCK_TEXT = 48 << 20  # the text of a block that repeats a single letter
_RANGE_FREE_BYTES = 1 << 30  # text of a range that is accepted at any expansion ratio


@dataclass(frozen=True)
class TextSpan:
    """Decoded text that directly follows the previous span.

    Attributes:
        offset: position in the stored file of the first byte if `exact`, otherwise of the stream or block that
            contains the text.
        data: text; empty to announce the offset of the next span, so that a reader can stop before it is decoded.
        exact: True for uncompressed files.
    """

    offset: int
    data: bytes
    exact: bool = False


class StoredFile:
    """Random access to a stored file, with a cache of the last few buffers of 1 MiB. Use it as a context manager."""

    def __init__(self, uri: str) -> None:
        self._file = storage.open_file(uri)
        self._buffers: dict[int, bytes] = {}
        self.size: int = self._file.size()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes; fewer at the end of the file."""
        end = min(offset + length, self.size)
        data = []
        while offset < end:
            number, start = divmod(offset, _BUFFER_BYTES)
            data.append(self._buffer(number)[start : start + end - offset])
            offset += len(data[-1])
        return data[0] if len(data) == 1 else b"".join(data)

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            while len(self._buffers) >= _CACHED_BUFFERS:
                del self._buffers[next(iter(self._buffers))]
            buffer = self._file.read_at(min(_BUFFER_BYTES, self.size - number * _BUFFER_BYTES), number * _BUFFER_BYTES)
            if not buffer:
                raise OSError(
                    f"the file was truncated to less than {number * _BUFFER_BYTES:,} bytes while it was being read"
                )
            self._buffers[number] = buffer
        return self._buffers[number]


def find_stream(stored: StoredFile, start: int, end: int) -> int | None:
    """Return the offset of the first stream that starts in the bytes `start` to `end`, or None."""
    for offset in range(start, end, _BUFFER_BYTES):
        length = min(_BUFFER_BYTES, end - offset) + _STREAM_BYTES - 1
        if header := _STREAM.search(stored.read(offset, length)):
            return offset + header.start()
    return None


@dataclass
class _ExpansionMeter:
    """Counts the text decoded from a range, to detect many small decompression bombs in a row."""

    start: int
    text_bytes: int = 0

    def is_bomb(self, position: int) -> bool:
        return streams.is_bomb(self.text_bytes, position - self.start, free_bytes=_RANGE_FREE_BYTES)


def read_streams(stored: StoredFile, name: str, start: int, end: int) -> Iterator[TextSpan | BadRow]:
    """Yield the text from the first stream that starts in `start` to `end`, up to the end of the file.

    For a damaged stream, a `BadRow` follows the text before the damage, and reading continues with the next stream.

    Args:
        stored: a bz2 file.
        name: name of the file, for `BadRow`.
        start: first byte of the range.
        end: end of the range (exclusive).
    """
    meter = _ExpansionMeter(start)
    position = find_stream(stored, start, end)
    while position is not None and stored.size - position >= _STREAM_BYTES:
        yield TextSpan(position, b"")
        if meter.is_bomb(position):
            yield _bomb(name, position, end)
            return
        try:
            position = yield from _stream_text(stored, position, meter)
        except UnreadableError as error:
            following = find_stream(stored, position + 1, stored.size) or stored.size
            yield BadRow(name, position, error.reason, str(error), following - error.offset)
            position = following


def read_blocks(stored: StoredFile, name: str, start: int, end: int) -> Iterator[TextSpan | BadRow]:
    """Yield the text from the first block that starts at or after byte `start`, up to the end of the file.

    A damaged block yields a `BadRow`, and reading continues with the next block. Arguments as for `read_streams`.
    """
    meter = _ExpansionMeter(start)
    marks = _block_marks(stored, start)
    pending = list(islice(marks, 2))
    while len(pending) > 1:
        position = pending[0] // 8
        yield TextSpan(position, b"")
        if meter.is_bomb(position):
            yield _bomb(name, position, end)
            return
        used = 1
        try:
            text = _block_text(stored, pending[0], pending[1])
            if text is None and (following := next(marks, None)) is not None:
                pending.append(following)  # the data may contain the bits of a mark by chance
                text = _block_text(stored, pending[0], following)
                used = 1 if text is None else 2
        except UnreadableError as error:
            yield BadRow(name, position, error.reason, str(error), pending[1] // 8 - position)
        else:
            if text is None:
                yield BadRow(name, position, "bz2_damaged", "a bz2 block is damaged", pending[1] // 8 - position)
            else:
                meter.text_bytes += len(text)
                yield TextSpan(position, text)
        pending = pending[used:]
        pending += islice(marks, max(2 - len(pending), 0))


def last_text(stored: StoredFile) -> bytes | None:
    """Return the last bytes of text of a bz2 file (up to 64), or None if the file is truncated.

    Raises:
        UnreadableError: if the last block is damaged.
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


def _stream_text(stored: StoredFile, start: int, meter: _ExpansionMeter) -> Generator[TextSpan, None, int]:
    """Yield the text of the stream at `start` and return the end of the stream.

    Raises:
        UnreadableError: if the stream is damaged. Its `offset` is approximately the end of the last complete block.
    """
    decoder = bz2.BZ2Decompressor()
    end = verified_end = start
    text_bytes = 0
    buffer = bytearray()
    while not decoder.eof:
        data = stored.read(end, _FEED_BYTES) if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise UnreadableError("bz2_damaged", "the bz2 data is cut short", offset=verified_end)
        end += len(data)
        try:
            text = decoder.decompress(data, _BUFFER_BYTES)
        except OSError as error:
            raise UnreadableError("bz2_damaged", f"a bz2 stream is damaged ({error})", offset=verified_end) from None
        buffer += text
        text_bytes += len(text)
        meter.text_bytes += len(text)
        if streams.is_bomb(text_bytes, end - start) or len(buffer) > _MAX_BLOCK_TEXT:
            detail = f"a bz2 stream expands more than {streams.MAX_EXPANSION}-fold, unlike any text"
            raise UnreadableError("bz2_bomb", detail, offset=verified_end)
        # If the decoder asks for input without filling its output, the output ends with a verified block.
        if buffer and (decoder.eof or (decoder.needs_input and len(text) < _BUFFER_BYTES)):
            verified, buffer, verified_end = bytes(buffer), bytearray(), end
            yield TextSpan(start, verified)
    return end - len(decoder.unused_data)


def _block_marks(stored: StoredFile, start: int) -> Iterator[int]:
    """Yield the bit positions of the block marks from byte `start` on, and finally the end of the file."""
    for offset in range(start, stored.size, _BUFFER_BYTES):
        bits = _find_marks(stored.read(offset, _BUFFER_BYTES + _MARK_BITS // 8), _BLOCK_MARK)
        yield from (8 * offset + bit for bit in bits if bit < 8 * _BUFFER_BYTES)
    yield 8 * stored.size


def _find_marks(data: bytes, mark: int) -> list[int]:
    """Return the bit positions in `data` at which a 48-bit mark starts."""
    bits = []
    for shift in range(8):
        inner = (mark << 8 - shift).to_bytes(7, "big")[1:6]  # bytes that contain only bits of the mark
        position = data.find(inner, 1)
        while position >= 0:
            window = int.from_bytes(data[position - 1 : position + 6].ljust(7, b"\0"), "big")
            if window >> 8 - shift & (1 << _MARK_BITS) - 1 == mark:
                bits.append(8 * (position - 1) + shift)
            position = data.find(inner, position + 1)
    return sorted(bits)


def _block_text(stored: StoredFile, start: int, end: int) -> bytes | None:
    """Decode the block in the bits `start` to `end`, which may include a footer. Return None if it is damaged."""
    first, last = start // 8, -(-end // 8)
    if last - first > _MAX_BLOCK_BYTES:
        return None
    data = stored.read(first, last - first)
    start, end = start - 8 * first, end - 8 * first
    text = _decode_block(data, start, end)
    if text is None:
        ends = (bit for bit in _find_marks(data, _END_MARK) if start < bit < end)
        text = next((text for bit in ends if (text := _decode_block(data, start, bit)) is not None), None)
    return text


def _decode_block(data: bytes, start: int, end: int) -> bytes | None:
    """Decode a block by wrapping it in a stream, whose checksum is then equal to that of the block."""
    bits = end - start
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
            "bz2_bomb", f"a bz2 block expands to more than {streams.FREE_BYTES >> 20} MiB, unlike any text"
        )
    return text if decoder.eof else None


def _bomb(name: str, position: int, end: int) -> BadRow:
    detail = f"the bz2 data repeatedly expands more than {streams.MAX_EXPANSION}-fold, unlike any text"
    return BadRow(name, position, "bz2_bomb", detail, max(end - position, 0))
