"""Documents of text files, JSON Lines, CSV and TSV files, and books."""

import csv
import io
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distilray.corpus.sources import texts as text_files
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.formats.bad_rows import BadRow
from tests.distilray.corpus.sources.reading import Entries, bad_rows, documents, read, short_id, source, texts
from tests.tiny.compression import gzipped
from tests.tiny.dumps import write

# How a document ends, or the kind of the source: kind, name of the file, and values of the source.
FORMS: dict[str, tuple[str, str, dict[str, str]]] = {
    "line": ("text", "a.txt", {"document_per": "line"}),
    "blank_line": ("text", "a.txt", {"document_per": "blank_line"}),
    "file": ("text", "a.txt", {"document_per": "file"}),
    "jsonl": ("jsonl", "a.jsonl", {}),
    "csv": ("csv", "a.csv", {}),
    "tsv": ("csv", "a.tsv", {}),
    "books": ("books", "a.txt", {}),
}
COLUMNS = {"text_column": "body", "title_column": "title", "id_column": "id"}


def read_form(form: str, folder: Path, data: bytes, *, suffix: str = "", limit: int = 1000, **options: Any) -> Entries:
    kind, name, values = FORMS[form]
    return read(kind, write(folder, data, name + suffix), limit=limit, **{**values, **options})


@pytest.mark.parametrize(
    ("form", "data", "values", "expected"),
    [
        ("line", b"\xef\xbb\xbfone\r\n \n\xc3\xa9", {}, [("a.txt:0", "", "one", 3), ("a.txt:10", "", "é", 2)]),
        (
            "blank_line",
            b"\n\none\ntwo\r\n \t\r\n\nthree\n",
            {},
            [("a.txt:2", "", "one\ntwo", 7), ("a.txt:16", "", "three", 5)],
        ),
        ("file", b"one\n\ntwo\n", {}, [("a.txt", "a.txt", "one\n\ntwo", 8)]),
        ("jsonl", '{"id": 7, "title": "T", "body": "é"}'.encode(), COLUMNS, [("7", "T", "é", 2)]),
        ("jsonl", b'{"id": "i", "title": 1, "body": "a"}', COLUMNS, [("i", "", "a", 1)]),
        ("jsonl", b'{"text": "a", "text": "b", "n": NaN}', {}, [("a.jsonl:0", "", "b", 1)]),
        *[
            ("jsonl", f'\n{{{no_id} "text": "a"}}'.encode(), {"id_column": "id"}, [("a.jsonl:1", "", "a", 1)])
            for no_id in ("", '"id": null,', '"id": "",', '"id": [1],', '"id": true,')
        ],
        (
            "csv",
            b"id,title,body\n7,T,\xc3\xa9\n,U,b\n",
            COLUMNS,
            [("7", "T", "é", 2), ("a.csv:21", "U", "b", 1)],
        ),
    ],
    ids=short_id,
)
def test_a_document_has_its_key_title_text_and_size(
    tmp_path: Path, form: str, data: bytes, values: dict[str, str], expected: list[tuple[str, str, str, int]]
) -> None:
    assert read_form(form, tmp_path, data, chunk_bytes=1000, **values) == [RawDocument(*fields) for fields in expected]


@pytest.mark.parametrize(
    ("data", "name", "values"),
    [
        (b'text,n\n"one, two",1\nthree,2\n', "a.csv", {}),
        (b'\xef\xbb\xbf"text",n\r\n"one, two",1\r\n\r\nthree,2\r\n', "a.csv", {}),
        (b"n\ttext\n1\tone, two\n2\tthree", "a.tsv", {}),
        (b"n\ttext\n1\tone, two\n2\tthree", "a.csv", {"kind": "tsv"}),
        (b"n;text\n1;one, two\n2;three\n", "a.csv", {"delimiter": ";"}),
        (gzipped(b'text\n"one, two"\nthree\n'), "a.csv.gz", {}),
    ],
    ids=short_id,
)
def test_csv_dialects_give_the_same_documents(tmp_path: Path, data: bytes, name: str, values: dict[str, str]) -> None:
    assert texts(read(**{"kind": "csv", "uri": write(tmp_path, data, name), **values})) == ["one, two", "three"]


@pytest.mark.parametrize(
    ("form", "data", "values", "expected"),
    [
        ("csv", b'text\n"He said ""no"".\n\nThen he left."\nb\n', {}, ['He said "no".\n\nThen he left.', "b"]),
        ("tsv", b'text\tn\n"no\t1\nb\t2\n', {"quoted": False}, ['"no', "b"]),
    ],
    ids=short_id,
)
def test_quotes_enclose_a_field_unless_they_are_text(
    tmp_path: Path, form: str, data: bytes, values: dict[str, Any], expected: list[str]
) -> None:
    assert texts(read_form(form, tmp_path, data, **values)) == expected


@given(rows=st.lists(st.text('a",;\t\n é\u2028\U0001f600', min_size=1, max_size=20), max_size=8))
@settings(max_examples=40)
def test_rows_of_another_csv_writer_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["n", "text"], *([n, text] for n, text in enumerate(rows))])
    assert texts(read_form("csv", tmp_path_factory.getbasetemp(), written.getvalue().encode())) == rows


@given(
    data=st.lists(st.sampled_from([b"a", b"\n", b"\n", b" ", b"\r\n", b"bc"]), max_size=40).map(b"".join),
    chunk_bytes=st.integers(1, 50),
)
@example(data=b"a\n   \n\n\n  b", chunk_bytes=3)
@pytest.mark.parametrize("form", ["line", "blank_line"])
def test_any_ranges_of_a_text_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: bytes, chunk_bytes: int
) -> None:
    folder, lines = tmp_path_factory.getbasetemp(), data.decode().split("\n")
    blocks = [
        "\n".join(block).strip() for has_text, block in groupby(lines, lambda line: bool(line.strip())) if has_text
    ]
    entries = read_form(form, folder, data, chunk_bytes=chunk_bytes)
    assert texts(entries) == (blocks if form == "blank_line" else [line.strip() for line in lines if line.strip()])
    assert entries == read_form(form, folder, data)


@given(
    expected=st.lists(st.text(max_size=8), max_size=8),
    chunk_bytes=st.integers(1, 80),
    end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
)
def test_any_ranges_of_json_lines_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, expected: list[str], chunk_bytes: int, end: bytes
) -> None:
    data = b"".join(json.dumps({"text": text}).encode() + end for text in expected)
    assert texts(read_form("jsonl", tmp_path_factory.getbasetemp(), data, chunk_bytes=chunk_bytes)) == expected


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_blank_lines_longer_than_the_look_back_still_separate_blocks(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_LOOK_BACK_BYTES", window)
    data = b"a\n" + b" " * 20 + b"\nb\nc\n" + b"\n" * 20 + b"d"
    assert texts(read_form("blank_line", tmp_path, data, chunk_bytes=1)) == ["a", "b\nc", "d"]


# A good document before and after a bad one.
AROUND = {
    "line": (b"a\n", b"\nb\n"),
    "blank_line": (b"a\n\n", b"\n\nb\n"),
    "jsonl": (b'{"text": "a"}\n', b'\n{"text": "b"}\n'),
    "csv": (b"n,text\n1,a\n", b"\n2,b\n"),
}


@pytest.mark.parametrize(
    ("form", "bad", "reason"),
    [
        ("line", b"\xff", "not_utf8"),
        ("line", b"x" * 1001, "too_large"),
        ("blank_line", b"\xff\nx", "not_utf8"),
        ("blank_line", b"x\n" * 501, "too_large"),
        ("jsonl", b'{"text": "a"', "json_malformed"),
        ("jsonl", b"[1]", "json_malformed"),
        ("jsonl", b"[" * 5_000, "json_malformed"),
        ("jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "json_malformed"),
        ("jsonl", b'{"body": "a"}', "text_missing"),
        ("jsonl", b'{"text": null}', "text_missing"),
        ("jsonl", b'{"text": ["a"]}', "text_missing"),
        ("jsonl", b'{"text": "\xff"}', "not_utf8"),
        ("jsonl", b'{"text": "\\ud800"}', "not_utf8"),
        ("jsonl", b'{"text": "' + b"a" * 1001 + b'"}', "too_large"),
        ("jsonl", b'{"text": "' + b"a" * 7000 + b'"}', "too_large"),
        ("csv", b"1,a,b", "csv_malformed"),
        ("csv", b"1", "csv_malformed"),
        ("csv", b'1,"a"b', "csv_malformed"),
        ("csv", b"1,\xff", "not_utf8"),
        ("csv", b"1," + b"a" * 1001, "too_large"),
        ("csv", b"1," + b"a" * 1_100_000, "too_large"),
    ],
    ids=short_id,
)
def test_a_bad_document_is_refused_with_its_offset_and_the_next_is_read(
    tmp_path: Path, form: str, bad: bytes, reason: str
) -> None:
    before, after = AROUND[form]
    entries = read_form(form, tmp_path, before + bad + after)
    assert texts(entries) == ["a", reason, "b"]
    [row] = bad_rows(entries)
    assert (row.file, row.offset, row.lost_bytes, "\n" in row.detail) == (FORMS[form][1], len(before), 0, False)


@pytest.mark.parametrize("form", ["line", "blank_line"])
def test_a_document_of_the_largest_size_is_read(tmp_path: Path, form: str) -> None:
    assert texts(read_form(form, tmp_path, b"x" * 1000 + b"\n")) == ["x" * 1000]


def test_escapes_of_json_do_not_count_against_the_limit(tmp_path: Path) -> None:
    data = b'{"text": "' + rb"\u00e9" * 5 + b'"}'
    assert read_form("jsonl", tmp_path, data, limit=10) == [RawDocument("a.jsonl:0", "", "é" * 5, 10)]


def test_rows_after_an_unclosed_quote_are_lost_bytes(tmp_path: Path) -> None:
    data = b'n,text\n1,a\n2,"b\n' + b"3,c\n" * 100
    *_, bad = read_form("csv", tmp_path, data)
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.lost_bytes) == ("csv_malformed", len(data) - 11)
    assert "quoted: false" in bad.detail


def test_the_encoding_of_a_whole_file_is_detected(tmp_path: Path) -> None:
    text = "The café in the Rue de la Gaîté was closed, and nobody knew why."
    assert texts(read_form("file", tmp_path, text.encode("cp1252"))) == [text]


def test_an_unclosed_quote_ends_at_the_limit_of_a_row(tmp_path: Path) -> None:
    entries = texts(read_form("csv", tmp_path, b'text\n"a\n' + b"a long line of text\n" * 60_000 + b"end\n"))
    assert (entries[0], entries[-1]) == ("too_large", "end")


@pytest.mark.parametrize("form", ["line", "blank_line", "file"])
def test_a_compressed_text_reads_like_a_plain_one(tmp_path: Path, form: str) -> None:
    data = b"one\ntwo\n\n\nthree\n\n"
    assert texts(read_form(form, tmp_path, gzipped(data), suffix=".gz")) == texts(read_form(form, tmp_path, data))


@pytest.mark.parametrize(
    ("form", "line", "stored", "reason", "lost"),
    [
        ("line", b"one\n", gzipped(b"one\n" * 4)[:-9], "cut_short", 0),
        ("jsonl", b'{"text": "one"}\n', gzipped(b'{"text": "one"}\n' * 4) + b"garbage", "compressed_damaged", None),
    ],
    ids=["cut", "garbage"],
)
def test_documents_before_damage_are_read_and_the_lost_bytes_reported(
    tmp_path: Path, form: str, line: bytes, stored: bytes, reason: str, lost: int | None
) -> None:
    entries = read_form(form, tmp_path, stored, suffix=".gz")
    assert texts(entries) == ["one"] * 4 + [reason]
    assert bad_rows(entries)[0].lost_bytes == (len(stored) if lost is None else lost)


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
    entries = documents(read_form("line", tmp_path, f"{line}\nHe was born.\n".encode()))
    expected = ("heading", "") if is_heading else (None, line.strip())
    assert [(document.dropped, document.text) for document in entries] == [expected, (None, "He was born.")]


@pytest.mark.parametrize("form", ["blank_line", "file"])
def test_the_headings_inside_a_document_are_removed_and_counted(tmp_path: Path, form: str) -> None:
    data = b" = Robert Boulter = \n He was born .\n = = Career = = \n He acted .\n"
    [document] = documents(read_form(form, tmp_path, data))
    assert (document.text, document.headings, document.dropped) == ("He was born .\n He acted .", 2, None)


BODY = "The lamp went out before the boat had reached the pier, and nobody on\nboard said a word about it."
BOOK = (
    "The Project Gutenberg eBook of The Lamp\n\nTitle: The Lamp\n\nAuthor: A. Writer\n\n"
    f"*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP ***\n\n{BODY}\n\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP ***\n"
).replace("\n", "\r\n")
QUOTE = "“It is late,” she said."


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("coast/lamp.txt", BOOK.encode(), RawDocument("coast/lamp", "The Lamp", BODY, len(BODY))),
        ("coast/lamp.txt.gz", gzipped(BODY.encode()), RawDocument("coast/lamp", "lamp", BODY, len(BODY))),
        ("a.txt", QUOTE.encode("cp1252"), RawDocument("a", "a", QUOTE, len(QUOTE.encode()))),
        ("a.txt", b"a" * 10_001, "too_large"),
        ("a.txt.gz", gzipped(b"a" * 10_001), "too_large"),
        ("a.txt.gz", gzipped(b"a" * 100)[:-9], "compressed_damaged"),
        ("a.txt", bytes(range(256)) * 9, "encoding_unknown"),
        ("a.txt", BOOK.replace(BODY.replace("\n", "\r\n"), "").encode(), "empty"),
    ],
    ids=short_id,
)
def test_a_book_is_read_without_header_and_license_or_quarantined(
    tmp_path: Path, name: str, data: bytes, expected: RawDocument | str
) -> None:
    [entry] = read("books", write(tmp_path, data, Path(name).name), name=name, chunk_bytes=10, limit=10_000)
    if isinstance(entry, BadRow):
        assert (entry.file, entry.reason, "\n" in entry.detail) == (name, expected, False)
    else:
        assert entry == expected


def test_the_prose_of_a_book_is_unwrapped() -> None:
    assert SOURCE_KINDS["books"].prose(source("books"), RawDocument("a", "", BODY, 0)) == BODY.replace("\n", " ")
