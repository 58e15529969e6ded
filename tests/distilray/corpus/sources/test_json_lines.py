import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.config.corpus import JsonLinesSource
from distilray.corpus.sources import json_lines
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow


def source(**columns: str) -> JsonLinesSource:
    return JsonLinesSource(kind="jsonl", path="x", name="notes", **columns)  # type: ignore[arg-type]


def read(
    folder: Path, data: bytes, name: str = "a.jsonl", chunk_bytes: int = 1000, limit: int = 1000, **columns: str
) -> list[RawDocument | BadRow]:
    file = folder / name
    file.write_bytes(data)
    wanted = source(**columns)
    file_ranges = json_lines.file_ranges(wanted, str(file), name, chunk_bytes=chunk_bytes)
    return [
        found
        for file_range in file_ranges
        for found in json_lines.read_documents(wanted, file_range, max_document_bytes=limit)
    ]


def only(folder: Path, data: bytes, **columns: str) -> RawDocument | BadRow:
    (found,) = read(folder, data, **columns)
    return found


@pytest.mark.parametrize(
    ("name", "belongs"),
    [("a.jsonl", True), ("a.JSON", True), ("a.ndjson.gz", True), ("a.jsonl.xz", True), ("a.csv", False)],
)
def test_json_lines_are_known_by_their_suffix(name: str, belongs: bool) -> None:
    assert json_lines.is_input(name) is belongs


def test_a_document_has_its_id_and_title(tmp_path: Path) -> None:
    line = '{"id": 7, "title": "T", "body": "é"}'.encode()
    assert only(tmp_path, line, text_column="body", title_column="title", id_column="id") == RawDocument(
        "7", "T", "é", 2
    )


@pytest.mark.parametrize("missing", ["", '"id": null,', '"id": "",', '"id": [1],', '"id": true,'])
def test_a_document_without_id_is_named_by_its_offset(tmp_path: Path, missing: str) -> None:
    found = only(tmp_path, f'\n{{{missing} "text": "a"}}'.encode(), id_column="id")
    assert found == RawDocument("a.jsonl:1", "", "a", 1)


def test_the_last_of_equal_keys_counts(tmp_path: Path) -> None:
    assert only(tmp_path, b'{"text": "a", "text": "b", "n": NaN}') == RawDocument("a.jsonl:0", "", "b", 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "json_malformed"),
        (b"[1]", "json_malformed"),
        (b"[" * 100_000, "json_malformed"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "json_malformed"),
        (b'{"body": "a"}', "text_missing"),
        (b'{"text": null}', "text_missing"),
        (b'{"text": ["a"]}', "text_missing"),
        (b'{"text": "\xff"}', "not_utf8"),
        (b'{"text": "\\ud800"}', "not_utf8"),
        (b'{"text": "' + b"a" * 200_001 + b'"}', "too_large"),
        (b'{"text": "' + b"a" * 1_300_000 + b'"}', "too_large"),
    ],
)
def test_a_bad_line_is_refused_with_its_offset_and_the_next_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    first, bad, last = read(
        tmp_path, b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n', chunk_bytes=1 << 22, limit=200_000
    )
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.offset, bad.reason, bad.lost_bytes) == ("a.jsonl", 14, reason, 0)
    assert "\n" not in bad.detail
    assert [entry.text for entry in (first, last) if isinstance(entry, RawDocument)] == ["a", "b"]


def test_escapes_do_not_count_against_the_limit(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"text": "' + rb"\u00e9" * 5 + b'"}', limit=10) == [
        RawDocument("a.jsonl:0", "", "é" * 5, 10)
    ]


@given(
    texts=st.lists(st.text(max_size=8), max_size=8),
    chunk_bytes=st.integers(1, 80),
    end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
)
def test_any_ranges_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], chunk_bytes: int, end: bytes
) -> None:
    data = b"".join(json.dumps({"text": text}).encode() + end for text in texts)
    found = read(tmp_path_factory.getbasetemp(), data, chunk_bytes=chunk_bytes)
    assert [entry.text for entry in found if isinstance(entry, RawDocument)] == texts


def test_documents_before_damage_are_kept_and_the_lost_bytes_reported(tmp_path: Path) -> None:
    stored = gzip.compress(b'{"text": "a"}\n' * 3) + b"garbage"
    *found, bad = read(tmp_path, stored, name="a.jsonl.gz")
    assert len(found) == 3
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.lost_bytes) == ("compressed_damaged", len(stored))


@pytest.mark.parametrize(
    ("name", "data", "columns", "reason"),
    [
        ("a.jsonl", b"", {}, "the file is empty"),
        ("a.jsonl", b"\n\n", {}, "the file is empty"),
        ("a.jsonl.gz", b"{}", {}, "compressed data is damaged"),
        ("a.json", b'[{"text": "a"}]\n', {}, "the first line is not a JSON object"),
        ("a.json", b'{\n"text": "a"}\n', {}, "the first line is not JSON"),
        ("a.jsonl", b'{"body": "a"}', {}, "set text_column to one of 'body'"),
        ("a.jsonl.gz", gzip.compress(b'{"body": "a"}\n' * 9, mtime=0)[:-9], {}, "set text_column to one of 'body'"),
        ("a.jsonl", b'{"body": "a", "n": 1}\n', {}, "set text_column to one of 'body', 'n'"),
        ("a.jsonl", b'{"text": "a"}\n', {"id_column": "id"}, "set id_column to one of 'text'"),
        ("a.jsonl", b'{"text": "a"}\n', {"title_column": "name"}, "set title_column to one of 'text'"),
    ],
)
def test_a_file_that_is_not_as_the_recipe_says_is_refused(
    tmp_path: Path, name: str, data: bytes, columns: dict[str, str], reason: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        json_lines.check_file(source(**columns), f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_a_title_may_be_missing_in_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "b", "name": "B"}\n')
    json_lines.check_file(source(title_column="name"), f"{tmp_path}/a.jsonl")
