import gzip
import io
import lzma
import random
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.errors import InputError
from distilray.formats import streams
from distilray.formats.lines import FileRange, Line, byte_ranges, read_lines
from distilray.formats.streams import UnreadableError, read_chunks, read_whole, split_suffix, stored_size
from tests.tiny.compression import COMPRESS, zstd
from tests.tiny.dumps import write

TEXT = b"".join(b"%d a line that is not the one before it\n" % random.Random(n).getrandbits(90) for n in range(3000))

every_format = pytest.mark.parametrize("suffix", COMPRESS)


def content(uri: str) -> bytes:
    return b"".join(read_chunks(uri))


def failure(folder: Path, data: bytes, suffix: str) -> tuple[bytes, UnreadableError]:
    """Return the output before an error, and the error."""
    before = bytearray()
    with pytest.raises(UnreadableError) as caught:
        deque(map(before.extend, read_chunks(write(folder, data, f"a.txt{suffix}"))))
    return bytes(before), caught.value


@every_format
@pytest.mark.parametrize("member_bytes", [len(TEXT), 5000], ids=["one member", "many members"])
def test_compressed_files_have_the_bytes_of_the_text(tmp_path: Path, suffix: str, member_bytes: int) -> None:
    members = [COMPRESS[suffix](TEXT[at : at + member_bytes]) for at in range(0, len(TEXT), member_bytes)]
    assert content(write(tmp_path, b"".join(members), f"A.TXT{suffix.upper()}")) == TEXT


@every_format
def test_a_cut_file_is_read_up_to_the_cut(tmp_path: Path, suffix: str) -> None:
    stored = 2 * COMPRESS[suffix](TEXT)
    output, error = failure(tmp_path, stored[:-40], suffix)
    assert output.startswith(TEXT)
    assert (error.reason, error.offset, error.lost_bytes) == ("cut_short", len(stored) - 40, 0)


@every_format
def test_everything_after_damage_is_lost(tmp_path: Path, suffix: str) -> None:
    _, error = failure(tmp_path, COMPRESS[suffix](TEXT) + b"\xff" * 40_000, suffix)
    assert 40_000 <= error.lost_bytes < 40_000 + (32 << 10) + 100
    output, error = failure(tmp_path, TEXT, suffix)  # not compressed
    assert (output, error.reason, error.lost_bytes) == (b"", "compressed_damaged", len(TEXT))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_an_error_of_the_network_is_not_damage(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    def broken(size: int) -> bytes:
        raise OSError("connection reset")

    class Filesystem:
        def get_file_info(self, path: str) -> object:
            return streams.fs.FileInfo(path, streams.fs.FileType.File, size=9)

        def open_input_stream(self, path: str, **options: object) -> io.BytesIO:
            stream = io.BytesIO()
            stream.read = broken  # type: ignore[assignment, method-assign]
            return stream

    monkeypatch.setattr(streams.storage, "filesystem", lambda uri: (Filesystem(), uri))
    with pytest.raises(OSError, match="connection reset"):
        content(f"s3://bucket/a.txt{suffix}")


@every_format
def test_a_compressed_file_without_content_is_empty(tmp_path: Path, suffix: str) -> None:
    for data in (b"", COMPRESS[suffix](b"")):
        assert content(write(tmp_path, data, f"a.txt{suffix}")) == b""


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".zst", bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"note" + zstd(TEXT)),
        (".gz", gzip.compress(TEXT, mtime=0) + bytes(50_000)),
    ],
    ids=["frames to skip", "padding"],
)
def test_bytes_without_content_are_skipped(tmp_path: Path, suffix: str, data: bytes) -> None:
    assert content(write(tmp_path, data, f"a.txt{suffix}")) == TEXT


def test_an_xz_file_that_asks_for_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_XZ_MEMORY", 1 << 20)
    output, error = failure(tmp_path, lzma.compress(TEXT), ".xz")
    assert (output, error.reason) == (b"", "compressed_damaged")


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".zst"])
def test_a_decompression_bomb_is_not_read_to_its_end(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    output, error = failure(tmp_path, COMPRESS[suffix](bytes(4 << 20)), suffix)
    assert error.reason == "too_large"
    assert len(output) <= 2 << 20


def test_a_whole_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    uri = write(tmp_path, TEXT)
    assert read_whole(uri, max_bytes=len(TEXT)) == TEXT
    with pytest.raises(UnreadableError, match="raise max_document_mb"):
        read_whole(uri, max_bytes=len(TEXT) - 1)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.txt", ("a", "", ".txt")),
        ("b.c/a.TXT.GZ", ("b.c/a", ".gz", ".txt")),
        ("a.gz", ("a", ".gz", "")),
        ("b.c/a", ("b.c/a", "", "")),
        (".txt", (".txt", "", "")),
        ("a.b.json.xz", ("a.b", ".xz", ".json")),
        ("a.csv.ZST", ("a", ".zst", ".csv")),
    ],
)
def test_a_name_is_split_at_its_suffixes(name: str, parts: tuple[str, str, str]) -> None:
    assert split_suffix(name) == parts


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        stored_size(f"{tmp_path}/{name}")


@given(data=st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"\n")), chunk_bytes=st.integers(1, 70))
def test_every_line_is_read_once_whatever_the_ranges(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk_bytes: int
) -> None:
    uri = write(tmp_path_factory.getbasetemp(), data, "lines.txt")
    ranges = byte_ranges(uri, "lines.txt", chunk_bytes=chunk_bytes)
    lines = [line for each in ranges for line in read_lines(each, max_bytes=1000)]
    assert b"\n".join(line.data for line in lines) == data.removesuffix(b"\n")
    assert all(data[line.offset :].startswith(line.data) for line in lines)


def test_ranges_cover_the_file_and_no_more(tmp_path: Path) -> None:
    ranges = byte_ranges(write(tmp_path, bytes(1000)), "a.txt", chunk_bytes=300)
    bounds = [(0, 300), (300, 600), (600, 900), (900, 1000)]
    assert [(each.start, each.end, each.stored_bytes) for each in ranges] == [(at, to, to - at) for at, to in bounds]


@every_format
def test_a_compressed_file_is_one_range(tmp_path: Path, suffix: str) -> None:
    uri = write(tmp_path, bytes(1000), f"a.txt{suffix}")
    assert byte_ranges(uri, "a", chunk_bytes=10) == [FileRange(uri, "a", 0, 1000, "whole", 1000)]


def test_a_line_over_the_limit_has_no_data(tmp_path: Path) -> None:
    (whole,) = byte_ranges(write(tmp_path, b"a" * 21 + b"\n" + b"b" * 20 + b"\n"), "a.txt", chunk_bytes=1000)
    assert list(read_lines(whole, max_bytes=20)) == [Line(0, b"", 21), Line(22, b"b" * 20, 20)]
