import gzip
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distilray.config.corpus import TextSource
from distilray.corpus.sources import texts
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow

Per = Literal["line", "blank_line", "file"]


def source(per: Per = "line", hard_wrapped: bool = False) -> TextSource:
    return TextSource(kind="text", path="x", name="notes", document_per=per, hard_wrapped=hard_wrapped)


def read(
    folder: Path, data: bytes, per: Per, name: str = "a.txt", chunk_bytes: int = 1000, limit: int = 1000
) -> list[RawDocument | BadRow]:
    file = folder / name
    file.write_bytes(data)
    file_ranges = texts.file_ranges(source(per), str(file), name, chunk_bytes=chunk_bytes)
    return [
        found
        for file_range in file_ranges
        for found in texts.read_documents(source(per), file_range, max_document_bytes=limit)
    ]


def test_each_line_that_says_something_is_a_document(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfone\r\n \n\xc3\xa9", "line") == [
        RawDocument("a.txt:0", "", "one", 3),
        RawDocument("a.txt:10", "", "é", 2),
    ]


def test_each_block_between_blank_lines_is_a_document(tmp_path: Path) -> None:
    assert read(tmp_path, b"\n\none\ntwo\r\n \t\r\n\nthree\n", "blank_line") == [
        RawDocument("a.txt:2", "", "one\ntwo", 7),
        RawDocument("a.txt:16", "", "three", 5),
    ]


def test_a_whole_file_is_a_document_with_its_name(tmp_path: Path) -> None:
    assert read(tmp_path, b"one\n\ntwo\n", "file", chunk_bytes=2) == [RawDocument("a.txt", "a.txt", "one\n\ntwo", 8)]


@pytest.mark.parametrize("per", ["line", "blank_line", "file"])
def test_a_compressed_file_reads_like_a_plain_one(tmp_path: Path, per: Per) -> None:
    data = b"one\ntwo\n\n\nthree\n\n"
    found = read(tmp_path, gzip.compress(data), per, name="b.txt.gz")
    plain = [entry.text for entry in read(tmp_path, data, per) if isinstance(entry, RawDocument)]
    assert [entry.text for entry in found if isinstance(entry, RawDocument)] == plain


@given(
    data=st.lists(st.sampled_from([b"a", b"\n", b"\n", b" ", b"\r\n", b"bc"]), max_size=40).map(b"".join),
    chunk_bytes=st.integers(1, 50),
)
@example(data=b"a\n   \n\n\n  b", chunk_bytes=3)
@pytest.mark.parametrize("per", ["line", "blank_line"])
def test_any_ranges_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, per: Per, data: bytes, chunk_bytes: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert read(folder, data, per, chunk_bytes=chunk_bytes) == read(folder, data, per, chunk_bytes=1 << 20)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_blank_lines_longer_than_the_look_back_still_separate_blocks(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_LOOK_BACK_BYTES", window)
    data = b"a\n" + b" " * 20 + b"\nb\nc\n" + b"\n" * 20 + b"d"
    assert read(tmp_path, data, "blank_line", chunk_bytes=1) == read(tmp_path, data, "blank_line")


@pytest.mark.parametrize(
    ("per", "data", "offset", "reason"),
    [
        ("line", b"one\n\xff\ntwo\n", 4, "not_utf8"),
        ("blank_line", b"one\n\n\xff\nx\n\ntwo\n", 5, "not_utf8"),
        ("line", b"one\n" + b"x" * 11 + b"\ntwo\n", 4, "too_large"),
        ("blank_line", b"one\n\n" + b"x\n" * 6 + b"\ntwo\n", 5, "too_large"),
    ],
)
def test_a_bad_document_is_refused_and_the_next_is_read(
    tmp_path: Path, per: Per, data: bytes, offset: int, reason: str
) -> None:
    first, bad, last = read(tmp_path, data, per, limit=10)
    assert isinstance(bad, BadRow)
    assert (bad.offset, bad.reason) == (offset, reason)
    assert [entry.text for entry in (first, last) if isinstance(entry, RawDocument)] == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        (" = Robert Boulter = ", True),
        (" = = Early life = = ", True),
        (" = = = 2000 to 2005 = = = ", True),
        ("== History ==", True),
        ("===Works===", True),
        ("a = b", False),
        ("= a = b =", False),
        ("=a=", False),
        ("= = = =", False),
        ("==========", False),
        ("== History ===", False),
        ("The sum is = 4 =", False),
    ],
)
def test_a_heading_of_wikitext_is_no_document(tmp_path: Path, line: str, is_heading: bool) -> None:
    [heading, words] = read(tmp_path, f"{line}\nHe was born.\n".encode(), "line")
    assert isinstance(heading, RawDocument)
    assert (heading.dropped, heading.text) == (("heading", "") if is_heading else (None, line.strip()))
    assert isinstance(words, RawDocument)
    assert (words.dropped, words.text) == (None, "He was born.")


@pytest.mark.parametrize("per", ["blank_line", "file"])
def test_the_headings_inside_a_document_are_left_out_and_counted(tmp_path: Path, per: Per) -> None:
    data = b" = Robert Boulter = \n He was born .\n = = Career = = \n He acted .\n"
    [found] = read(tmp_path, data, per)
    assert isinstance(found, RawDocument)
    assert (found.text, found.headings, found.dropped) == ("He was born .\n He acted .", 2, None)


def test_documents_before_damage_are_kept(tmp_path: Path) -> None:
    stored = gzip.compress(b"one\ntwo\n" * 2)
    *found, bad = read(tmp_path, stored[:-9], "line", name="a.txt.gz")
    assert isinstance(bad, BadRow)
    assert (bad.reason, len(found)) == ("cut_short", 4)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "the file is empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("a.txt.gz", b"plain words", "compressed data is damaged"),
        ("a.txt", "words".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_gives_no_document_is_refused(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=reason):
        texts.check_file(source(), f"{tmp_path}/{name}")


@pytest.mark.parametrize(("hard_wrapped", "prose"), [(False, "a b\n\nc\n\nd\n\ne"), (True, "a b c\n\nd e")])
def test_a_line_break_is_a_paragraph_break_or_a_space(hard_wrapped: bool, prose: str) -> None:
    document = RawDocument("a", "", "\n a  b\r\nc\n \n\nd\re\n", 0)
    assert texts.prose(source(hard_wrapped=hard_wrapped), document) == prose
