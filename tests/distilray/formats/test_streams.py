import bz2
import gzip
import io
import lzma
import random
from collections import deque
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.errors import InputError
from distilray.formats import streams
from distilray.formats.lines import FileRange, Line, byte_ranges, read_lines
from distilray.formats.streams import UnreadableError, read_chunks, read_whole, split_suffix, stored_size


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
TEXT = b"".join(b"%d a line that is not the one before it\n" % random.Random(n).getrandbits(90) for n in range(8000))


def write(folder: Path, data: bytes, name: str = "a.txt") -> str:
    file = folder / name
    file.write_bytes(data)
    return str(file)


def fault(uri: str) -> tuple[bytes, UnreadableError]:
    """Return the output before an error, and the error."""
    before = bytearray()
    with pytest.raises(UnreadableError) as caught:
        deque(map(before.extend, read_chunks(uri)))
    return bytes(before), caught.value


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_bytes_are_those_of_the_text(tmp_path: Path, suffix: str) -> None:
    assert b"".join(read_chunks(write(tmp_path, COMPRESS[suffix](TEXT), f"a.txt{suffix}"))) == TEXT


@pytest.mark.parametrize("suffix", COMPRESS)
def test_many_members_read_like_one(tmp_path: Path, suffix: str) -> None:
    data = b"".join(COMPRESS[suffix](TEXT[at : at + 5000]) for at in range(0, len(TEXT), 5000))
    assert b"".join(read_chunks(write(tmp_path, data, f"a.txt{suffix}"))) == TEXT


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_cut_file_gives_what_is_there_and_says_so(tmp_path: Path, suffix: str) -> None:
    stored = COMPRESS[suffix](TEXT) + COMPRESS[suffix](TEXT)
    found, error = fault(write(tmp_path, stored[:-40], f"a.txt{suffix}"))
    assert found.startswith(TEXT)
    assert error.reason == "cut_short"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damage_loses_what_lies_behind_it(tmp_path: Path, suffix: str) -> None:
    stored = COMPRESS[suffix](TEXT)
    bad = stored + b"\xff" * 40_000
    _, error = fault(write(tmp_path, bad, f"a.txt{suffix}"))
    assert 40_000 <= error.lost_bytes < 40_000 + (32 << 10) + 100


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_is_not_compressed_is_damaged(tmp_path: Path, suffix: str) -> None:
    found, error = fault(write(tmp_path, TEXT, f"a.txt{suffix}"))
    assert (found, error.reason, error.lost_bytes) == (b"", "compressed_damaged", len(TEXT))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_fault_of_the_network_is_no_damage(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
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
        list(read_chunks(f"s3://bucket/a.txt{suffix}"))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("is_stored", [False, True], ids=["no bytes", "compressed nothing"])
def test_a_compressed_file_without_content_is_empty(tmp_path: Path, suffix: str, *, is_stored: bool) -> None:
    assert not list(read_chunks(write(tmp_path, COMPRESS[suffix](b"") if is_stored else b"", f"a.txt{suffix}")))


def test_a_zstd_file_may_have_frames_to_skip(tmp_path: Path) -> None:
    skipped = bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"note"
    assert b"".join(read_chunks(write(tmp_path, skipped + zstd(TEXT), "a.txt.zst"))) == TEXT


def test_an_xz_file_that_asks_for_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_XZ_MEMORY", 1 << 20)
    found, error = fault(write(tmp_path, lzma.compress(TEXT), "a.txt.xz"))
    assert (found, error.reason) == (b"", "compressed_damaged")


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".zst"])
def test_a_bomb_is_left_early(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    found, error = fault(write(tmp_path, COMPRESS[suffix](bytes(8 << 20)), f"a.txt{suffix}"))
    assert error.reason == "too_large"
    assert len(found) <= 2 << 20


def test_a_whole_file_over_the_limit_is_not_read_on(tmp_path: Path) -> None:
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


def test_an_upper_case_suffix_is_decompressed_too(tmp_path: Path) -> None:
    assert b"".join(read_chunks(write(tmp_path, gzip.compress(TEXT), "A.TXT.GZ"))) == TEXT


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        stored_size(f"{tmp_path}/{name}")


@given(data=st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"\n")), chunk_bytes=st.integers(1, 70))
def test_every_line_is_read_once_whatever_the_ranges(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk_bytes: int
) -> None:
    uri = write(tmp_path_factory.getbasetemp(), data, "lines.txt")
    parts = byte_ranges(uri, "lines.txt", chunk_bytes=chunk_bytes)
    found = [line for part in parts for line in read_lines(part, max_bytes=1000)]
    assert b"\n".join(line.data for line in found) == data.removesuffix(b"\n")
    assert all(data[line.offset :].startswith(line.data) for line in found)


def test_ranges_cover_the_file_and_no_more(tmp_path: Path) -> None:
    parts = byte_ranges(write(tmp_path, bytes(1000)), "a.txt", chunk_bytes=300)
    assert [(part.start, part.end, part.stored_bytes) for part in parts] == [
        (0, 300, 300),
        (300, 600, 300),
        (600, 900, 300),
        (900, 1000, 100),
    ]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.bz2", "a.txt.xz", "a.txt.zst"])
def test_a_compressed_file_is_one_range(tmp_path: Path, name: str) -> None:
    uri = write(tmp_path, bytes(1000), name)
    assert byte_ranges(uri, name, chunk_bytes=10) == [FileRange(uri, name, 0, 1000, "whole", 1000)]


def test_a_line_over_the_limit_comes_without_data_and_the_next_with_it(tmp_path: Path) -> None:
    (part,) = byte_ranges(write(tmp_path, b"a" * 30 + b"\nbb\n"), "a.txt", chunk_bytes=1000)
    assert list(read_lines(part, max_bytes=20)) == [Line(0, b"", 30), Line(31, b"bb", 2)]
