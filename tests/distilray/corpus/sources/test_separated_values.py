import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.config.corpus import CsvSource
from distilray.corpus.sources import separated_values
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.streams import EmptyFileError


def source(**values: Any) -> CsvSource:
    return CsvSource(**{"kind": "csv", "path": "x", "name": "notes"} | values)


def read(
    folder: Path, data: bytes, name: str = "a.csv", limit: int = 1000, **values: Any
) -> list[RawDocument | BadRow]:
    file = folder / name
    file.write_bytes(data)
    wanted = source(**values)
    file_ranges = separated_values.file_ranges(wanted, str(file), name, chunk_bytes=10)
    return [
        found
        for file_range in file_ranges
        for found in separated_values.read_documents(wanted, file_range, max_document_bytes=limit)
    ]


def texts(found: list[RawDocument | BadRow]) -> list[str]:
    return [entry.text if isinstance(entry, RawDocument) else entry.reason for entry in found]


@pytest.mark.parametrize(
    ("name", "belongs"), [("a.csv", True), ("b/A.TSV.zst", True), ("a.csv.gz", True), ("a.txt", False)]
)
def test_rows_are_known_by_their_suffix(name: str, belongs: bool) -> None:
    assert separated_values.is_input(name) is belongs


def test_a_document_has_its_id_and_title(tmp_path: Path) -> None:
    found = read(
        tmp_path, b"id,name,body\n7,T,\xc3\xa9\n,U,b\n", text_column="body", title_column="name", id_column="id"
    )
    assert found == [RawDocument("7", "T", "é", 2), RawDocument("a.csv:20", "U", "b", 1)]


@pytest.mark.parametrize(
    ("data", "name", "values"),
    [
        (b'text,n\n"one, two",1\nthree,2\n', "a.csv", {}),
        (b'\xef\xbb\xbf"text",n\r\n"one, two",1\r\n\r\nthree,2\r\n', "a.csv", {}),
        (b"n\ttext\n1\tone, two\n2\tthree", "a.tsv", {}),
        (b"n\ttext\n1\tone, two\n2\tthree", "a.csv", {"kind": "tsv"}),
        (b"n;text\n1;one, two\n2;three\n", "a.csv", {"delimiter": ";"}),
        (gzip.compress(b'text\n"one, two"\nthree\n', mtime=0), "a.csv.gz", {}),
    ],
)
def test_dialects_give_the_same_documents(tmp_path: Path, data: bytes, name: str, values: dict[str, Any]) -> None:
    assert texts(read(tmp_path, data, name, **values)) == ["one, two", "three"]


def test_a_quoted_field_may_have_quotes_and_line_breaks(tmp_path: Path) -> None:
    assert texts(read(tmp_path, b'text\n"He said ""no"".\n\nThen he left."\nb\n')) == [
        'He said "no".\n\nThen he left.',
        "b",
    ]


def test_quotes_can_be_text(tmp_path: Path) -> None:
    assert texts(read(tmp_path, b'text\tn\n"no\t1\nb\t2\n', "a.tsv", quoted=False)) == ['"no', "b"]


@given(
    rows=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=20), max_size=8)
)
def test_rows_of_another_writer_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows(
        [["n", "text"], *([str(n), text] for n, text in enumerate(rows))]
    )
    assert texts(read(tmp_path_factory.getbasetemp(), written.getvalue().encode())) == rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,a,b", "csv_malformed"),
        (b"1", "csv_malformed"),
        (b'1,"a"b', "csv_malformed"),
        (b"1,\xff", "not_utf8"),
        (b"1," + b"a" * 1001, "too_large"),
        (b"1," + b"a" * 1_100_000, "too_large"),
    ],
)
def test_a_bad_row_is_refused_with_its_offset_and_the_next_is_read(tmp_path: Path, row: bytes, reason: str) -> None:
    found = read(tmp_path, b"n,text\n1,a\n" + row + b"\n2,b\n")
    assert texts(found) == ["a", reason, "b"]
    assert isinstance(found[1], BadRow)
    assert (found[1].offset, found[1].lost_bytes, "\n" in found[1].detail) == (11, 0, False)


def test_rows_after_an_unclosed_quote_are_lost_bytes(tmp_path: Path) -> None:
    data = b'n,text\n1,a\n2,"b\n' + b"3,c\n" * 100
    *_, bad = read(tmp_path, data)
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.lost_bytes) == ("csv_malformed", len(data) - 11)


def test_an_unclosed_quote_ends_at_the_limit_of_a_row(tmp_path: Path) -> None:
    found = read(tmp_path, b'text\n"a\n' + b"long line of text\n" * 100_000 + b"end\n")
    assert texts(found)[0] == "too_large"
    assert texts(found)[-1] == "end"


@pytest.mark.parametrize(
    ("data", "values", "words"),
    [
        (b"body,n\na,1\n", {}, "no column 'text'.*set text_column to one of 'body', 'n'"),
        (b"text,text\na,1\n", {}, "no column 'text', or more than one"),
        (b"text;n\na;1\n", {}, "'text;n', or delimiter"),
        (b"text,n\na,1\n", {"id_column": "id"}, "set id_column to one of 'text', 'n'"),
        (b"\xff\xfet\0e\0", {}, "UTF-16"),
        (b"PK\x03\x04rest", {}, "zip archive.*unpack"),
        (b'text,"n\n' * 300_000, {}, "header cannot be read"),
    ],
)
def test_a_file_that_is_not_as_the_recipe_says_is_refused(
    tmp_path: Path, data: bytes, values: dict[str, Any], words: str
) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        separated_values.check_file(source(**values), f"{tmp_path}/a.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_a_header_is_empty(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(EmptyFileError):
        separated_values.check_file(source(), f"{tmp_path}/a.csv")


@pytest.mark.parametrize("delimiter", ['"', "ab", "\n", "x"])
def test_a_delimiter_is_one_sign(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter"):
        source(delimiter=delimiter)
