"""Properties of all kinds of sources."""

from pathlib import Path

import pytest

from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from tests.distilray.corpus.sources.reading import check, parquet, short_id, source
from tests.tiny.compression import gzipped
from tests.tiny.dumps import write

NAMES = {
    "text": (["a.txt", "A.TEXT.gz", "b.c/a.txt.zst", "README", "b/a.gz", "a.md", "a.rst"], ["a.html", "a.csv", "a.py"]),
    "books": (["a.txt", "a.TEXT.gz", "a.txt.xz", "a.txt.bz2", "a"], ["a.html"]),
    "jsonl": (["a.jsonl", "a.JSON", "a.ndjson.gz", "a.jsonl.xz"], ["a.csv"]),
    "csv": (["a.csv", "b/A.TSV.zst", "a.csv.gz", "a.tab"], ["a.txt"]),
    "tsv": (["a.csv", "a.tsv"], ["a.txt"]),
    "parquet": (["a.parquet", "b/A.PQ"], ["a.parquet.gz"]),
    "wikipedia": (
        [
            "a/enwiki-20250101-pages-articles.xml.bz2",
            "index/enwiki.xml",
            "enwiki-pages-articles-multistream1.xml-p1p41242.bz2",
            "enwiki-20200101-pages-articles2.xml-p41243p151573",
            "enwiki-pages-articles1.xml-p000000010p000010000",
        ],
        [
            "enwiki-pages-articles1.xml-p1p20.md5",
            "enwiki-pages-articles-multistream-index.txt.bz2",
            "enwiki-pages-articles-multistream-index1.txt-p1p41242.bz2",
            "enwiki-pages-articles-multistream-index1.txt-p1p41242",
            "enwiki-pages-articles.xml.bz2.md5",
            "enwiki.xml.gz",
            "README.txt",
        ],
    ),
}


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_files_of_a_kind_are_known_by_their_names(kind: str) -> None:
    inputs, others = NAMES[kind]
    assert [name for name in [*inputs, *others] if SOURCE_KINDS[kind].is_input(name)] == inputs


TEXT_AND_NUMBER = parquet({"text": ["a"], "n": [1.5]})
REJECTED = [
    ("a.txt", b"", {}, "the file is empty"),
    ("a.txt.gz", gzipped(b""), {}, "the file is empty"),
    ("a.txt.gz", b"plain words", {}, "compressed data is damaged"),
    ("a.txt", "words".encode("utf-16"), {}, "UTF-16"),
    ("a.jsonl", b"", {}, "the file is empty"),
    ("a.jsonl", b"\n\n", {}, "the file is empty"),
    ("a.jsonl.gz", b"{}", {}, "compressed data is damaged"),
    ("a.jsonl", b'[{"text": "a"}]\n', {}, "the first line is not a JSON object"),
    ("a.jsonl", b'{\n"text": "a"}\n', {}, "the first line is not JSON"),
    ("a.jsonl", b'{"body": "a"}', {}, "set text_column to one of 'body'"),
    ("a.jsonl.gz", gzipped(b'{"body": "a"}\n' * 9)[:-9], {}, "set text_column to one of 'body'"),
    ("a.jsonl", b'{"body": "a", "n": 1}\n', {}, "set text_column to one of 'body', 'n'"),
    ("a.jsonl", b'{"text": "a"}\n', {"id_column": "id"}, "set id_column to one of 'text'"),
    ("a.jsonl", b'{"text": "a"}\n', {"title_column": "name"}, "set title_column to one of 'text'"),
    ("a.csv", b"", {}, "the file is empty"),
    ("a.csv", b"\n\n", {}, "the file is empty"),
    ("a.csv", b"\xef\xbb\xbf", {}, "the file is empty"),
    ("a.csv", b"body,n\na,1\n", {}, "no column 'text'.*set text_column to one of 'body', 'n'"),
    ("a.csv", b"text,text\na,1\n", {}, "no column 'text', or more than one"),
    ("a.csv", b"text;n\na;1\n", {}, "'text;n', or delimiter"),
    ("a.csv", b"text,n\na,1\n", {"id_column": "id"}, "set id_column to one of 'text', 'n'"),
    ("a.csv", b"\xff\xfet\0e\0", {}, "UTF-16"),
    ("a.csv", b"PK\x03\x04rest", {}, "zip archive.*unpack"),
    ("a.csv", b'text,"n\n' * 300_000, {}, "header cannot be read"),
    ("a.parquet", b"", {}, "the file is empty"),
    ("a.parquet", b"PAR1", {}, "not a Parquet file"),
    ("a.parquet", b"words" * 10, {}, "not a Parquet file"),
    ("a.parquet", b"PAR1" + b"x" * 20 + b"\x0f\x00\x00\x00PAR1", {}, "not a Parquet file"),
    ("a.parquet", parquet({"body": ["a"], "n": [1]}), {}, "more than one; set text_column to one of 'body', 'n'"),
    ("a.parquet", parquet({"text": [1]}), {}, "column 'text' is int64, not string"),
    ("a.parquet", parquet({"text": [b"a"]}), {}, "column 'text' is binary, not string"),
    ("a.parquet", parquet({"text": [["a"]]}), {}, r"column 'text' is list<.*>, not string"),
    ("a.parquet", parquet({"a": [{"text": "b"}]}), {"text_column": "a.text"}, "no column 'a.text'"),
    ("a.parquet", TEXT_AND_NUMBER, {"id_column": "n"}, "column 'n' is double, not string; set id_column"),
    ("a.parquet", TEXT_AND_NUMBER, {"title_column": "n"}, "column 'n' is double, not string; set title_column"),
]


@pytest.mark.parametrize(("name", "data", "values", "message"), REJECTED, ids=short_id)
def test_a_file_that_differs_from_its_source_is_refused(
    tmp_path: Path, name: str, data: bytes, values: dict[str, str], message: str
) -> None:
    kind = name.split(".")[1].replace("txt", "text")
    with pytest.raises(InputError, match=message) as caught:
        check(kind, write(tmp_path, data, name), **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SOURCE_KINDS)
@pytest.mark.parametrize("name", ["none", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        check(kind, f"{tmp_path}/{name}")


def test_a_title_may_be_missing_in_the_first_line(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\n{"text": "b", "name": "B"}\n'
    check("jsonl", write(tmp_path, data, "a.jsonl"), title_column="name")


@pytest.mark.parametrize("delimiter", ['"', "ab", "\n", "x"])
def test_a_delimiter_is_one_sign(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter"):
        source("csv", delimiter=delimiter)


def test_headings_lists_and_indentation_separate_paragraphs_of_wrapped_text() -> None:
    text = "Title\n=====\nThe first\nparagraph.\n- an item\n  of a list\n- two\n\n1. one\nterm\n    its\n    meaning"
    prose = "Title\n\nThe first paragraph.\n\n- an item of a list\n\n- two\n\n1. one term\n\nits meaning"
    kind = SOURCE_KINDS["text"]
    assert kind.prose(source("text", hard_wrapped=True), RawDocument("a", "", text, len(text))) == prose


@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize(("hard_wrapped", "prose"), [(False, "a b\n\nc\n\nd\n\ne"), (True, "a b c\n\nd e")])
def test_a_line_break_is_a_paragraph_break_or_a_space(kind: str, hard_wrapped: bool, prose: str) -> None:
    document = RawDocument("a", "", "\n a  b\r\nc\n \n\nd\re\n", 0)
    assert SOURCE_KINDS[kind].prose(source(kind, hard_wrapped=hard_wrapped), document) == prose
