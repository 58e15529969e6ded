import bz2
import random
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.corpus.sources import bz2_ranges
from distilray.corpus.sources.bz2_ranges import (
    StoredFile,
    TextSpan,
    find_stream,
    last_text,
    read_blocks,
    read_streams,
)
from distilray.formats import streams as formats_streams
from distilray.formats.bad_rows import BadRow
from tests.tiny.dumps import streams, write

Reader = Callable[[StoredFile, str, int, int], Iterator[TextSpan | BadRow]]
MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size // 2).hex().encode()


PARTS = [noise(9_000, seed) for seed in range(12)]
MANY, OFFSETS = streams(PARTS)
LONG = noise(450_000)
ONE = bz2.compress(LONG, 1)  # five blocks


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Reader, str]:
    """Return a file that suits each reader: many streams, and one stream of many blocks."""
    folder = tmp_path_factory.mktemp("bz2")
    return {read_streams: write(folder, MANY, "many.bz2"), read_blocks: write(folder, ONE, "one.bz2")}


def read(reader: Reader, uri: str, start: int = 0, end: int | None = None) -> list[TextSpan | BadRow]:
    """Return the output of a reader for a range, without spans that start after it."""
    with StoredFile(uri) as stored:
        behind = stored.size if end is None else end
        return [span for span in reader(stored, "f", start, behind) if span.offset < behind]


def text(spans: list[TextSpan | BadRow]) -> bytes:
    return b"".join(span.data for span in spans if isinstance(span, TextSpan))


def bad_rows(spans: list[TextSpan | BadRow]) -> list[BadRow]:
    return [span for span in spans if isinstance(span, BadRow)]


@pytest.mark.parametrize(
    ("reader", "expected"), [(read_streams, b"".join(PARTS)), (read_blocks, LONG)], ids=["streams", "blocks"]
)
@given(fraction=st.floats(0.01, 1))
@settings(max_examples=8)
def test_all_ranges_give_the_text_once_and_in_order(
    files: dict[Reader, str], reader: Reader, expected: bytes, fraction: float
) -> None:
    size = Path(files[reader]).stat().st_size
    chunk_bytes = max(int(fraction * size), 20_000 if reader is read_blocks else 1_000)
    starts = range(0, size, chunk_bytes)
    texts = [text(read(reader, files[reader], start, min(start + chunk_bytes, size))) for start in starts]
    assert b"".join(texts) == expected


def test_blocks_are_read_through_the_border_of_two_streams(tmp_path: Path) -> None:
    uri = write(tmp_path, bz2.compress(LONG[:250_000], 1) + bz2.compress(LONG[250_000:], 1))
    assert text(read(read_blocks, uri)) == LONG


def test_a_block_that_contains_its_mark_by_chance_is_read_completely(
    files: dict[Reader, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = bz2_ranges._block_marks

    def with_one_more(stored: StoredFile, start: int) -> Iterator[int]:
        return iter(sorted([*marks(stored, start), 8 * len(ONE) // 2 + 3]))

    monkeypatch.setattr(bz2_ranges, "_block_marks", with_one_more)
    assert text(read(read_blocks, files[read_blocks])) == LONG


@pytest.mark.parametrize("at", [0, 1, 10, 11])
def test_the_first_stream_after_an_offset_is_found(files: dict[Reader, str], at: int) -> None:
    with StoredFile(files[read_streams]) as stored:
        assert find_stream(stored, OFFSETS[at], stored.size) == OFFSETS[at]
        assert find_stream(stored, OFFSETS[at] + 1, stored.size) == (OFFSETS[at + 1] if at < 11 else None)


@pytest.mark.parametrize("offset", [MIB - 10, MIB - 9, MIB - 1, MIB])
def test_a_stream_is_found_where_two_reads_meet(tmp_path: Path, offset: int) -> None:
    with StoredFile(write(tmp_path, bytes(offset) + MANY)) as stored:
        assert find_stream(stored, 0, stored.size) == offset


@pytest.mark.parametrize("shift", range(8))
def test_a_block_is_found_at_every_bit(shift: int) -> None:
    data = (0x314159265359 << shift | (1 << shift) - 1).to_bytes(9, "big")
    assert bz2_ranges._find_marks(data, 0x314159265359) == [72 - 48 - shift]


@pytest.mark.parametrize("inside", [1, 3, 5])
def test_a_block_is_found_where_two_reads_meet(
    files: dict[Reader, str], monkeypatch: pytest.MonkeyPatch, inside: int
) -> None:
    with StoredFile(files[read_blocks]) as stored:
        marks = list(bz2_ranges._block_marks(stored, 0))
    monkeypatch.setattr(bz2_ranges, "_BUFFER_BYTES", marks[1] // 8 + inside)
    with StoredFile(files[read_blocks]) as stored:
        assert list(bz2_ranges._block_marks(stored, 0)) == marks


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


DAMAGED = damaged(MANY, OFFSETS[3] + 2_000)


@pytest.mark.parametrize(
    ("data", "start", "expected", "bad"),
    [
        (DAMAGED, 0, PARTS[:3] + PARTS[4:], [(OFFSETS[3], OFFSETS[4] - OFFSETS[3])]),
        (DAMAGED, OFFSETS[3] + 1, PARTS[4:], []),
        (MANY[: OFFSETS[5] + 300], 0, PARTS[:5], [(OFFSETS[5], 300)]),
        (streams([PARTS[0], b"", PARTS[1]])[0], 0, PARTS[:2], []),
    ],
    ids=["damaged", "damaged before the range", "cut short", "empty"],
)
def test_a_stream_that_cannot_be_read_is_reported_with_its_bytes_and_the_next_is_read(
    tmp_path: Path, data: bytes, start: int, expected: list[bytes], bad: list[tuple[int, int]]
) -> None:
    spans = read(read_streams, write(tmp_path, data), start)
    assert text(spans) == b"".join(expected)
    assert [(row.offset, row.lost_bytes) for row in bad_rows(spans)] == bad
    assert {row.reason for row in bad_rows(spans)} <= {"bz2_damaged"}


def test_a_damaged_block_is_reported_and_the_next_is_read(tmp_path: Path) -> None:
    spans = read(read_blocks, write(tmp_path, damaged(ONE, len(ONE) // 2)))
    [bad] = bad_rows(spans)
    assert bad.reason == "bz2_damaged"
    assert bad.offset < len(ONE) // 2 < bad.offset + bad.lost_bytes
    at = spans.index(bad)
    before, behind = text(spans[:at]), text(spans[at:])
    assert LONG.startswith(before)
    assert LONG.endswith(behind)
    assert len(before) + len(behind) > len(LONG) - 110_000


@pytest.mark.parametrize("reader", [read_streams, read_blocks])
@given(at=st.integers(0, len(ONE) - 1))
@settings(max_examples=12)
def test_damage_never_looks_like_text(tmp_path_factory: pytest.TempPathFactory, reader: Reader, at: int) -> None:
    uri = write(tmp_path_factory.getbasetemp(), damaged(ONE, at), "damaged.bz2")
    assert all(span.data in LONG for span in read(reader, uri) if isinstance(span, TextSpan))


def test_the_blocks_before_the_cut_are_not_lost(tmp_path: Path) -> None:
    size = len(ONE) * 3 // 4
    [bad] = bad_rows(read(read_streams, write(tmp_path, ONE[:size])))
    assert bad.offset == 0
    assert 0 < bad.lost_bytes < size // 2


@pytest.mark.parametrize("reader", [read_streams, read_blocks])
def test_a_bomb_is_skipped_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    monkeypatch.setattr(formats_streams, "FREE_BYTES", MIB)
    bomb = bz2.compress(bytes(6 * MIB))
    spans = read(reader, write(tmp_path, bomb + bz2.compress(PARTS[0])))
    assert text(spans) == PARTS[0]
    assert [(bad.offset, bad.reason) for bad in bad_rows(spans)] == [(0 if reader is read_streams else 4, "bz2_bomb")]


@pytest.mark.parametrize("reader", [read_streams, read_blocks])
def test_a_row_of_small_bombs_ends_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader) -> None:
    monkeypatch.setattr(bz2_ranges, "_RANGE_FREE_BYTES", 3 * MIB)
    data = bz2.compress(bytes(MIB)) * 8
    spans = read(reader, write(tmp_path, data))
    assert 3 * MIB < len(text(spans)) <= 4 * MIB
    assert bad_rows(spans)[0].reason == "bz2_bomb"
    assert bad_rows(spans)[0].lost_bytes == len(data) - bad_rows(spans)[0].offset


def test_repetitive_text_is_no_bomb(tmp_path: Path) -> None:
    table = b"| 0 || 0 || 0\n" * 70_000
    assert text(read(read_streams, write(tmp_path, bz2.compress(table)))) == table


@pytest.mark.parametrize("reader", [read_streams, read_blocks])
def test_a_bomb_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader) -> None:
    monkeypatch.setattr(formats_streams, "FREE_BYTES", 2 * MIB)
    uri = write(tmp_path, bz2.compress(bytes(24 * MIB)))
    tracemalloc.start()
    with StoredFile(uri) as stored:
        deque(reader(stored, "f", 0, stored.size), maxlen=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * MIB


@pytest.mark.parametrize("data", [ONE, MANY, streams([LONG[:-40], LONG[-40:]])[0]])
def test_the_last_text_is_found_without_the_rest(tmp_path: Path, data: bytes) -> None:
    with StoredFile(write(tmp_path, data)) as stored:
        assert last_text(stored) == bz2.decompress(data)[-64:]


@given(cut=st.integers(1, 60_000))
@settings(max_examples=25)
def test_a_file_that_ends_inside_a_stream_has_no_last_text(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    with StoredFile(write(tmp_path_factory.getbasetemp(), ONE[:-cut], "cut.bz2")) as stored:
        assert last_text(stored) is None
