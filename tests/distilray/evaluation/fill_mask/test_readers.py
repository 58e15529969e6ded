import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config.evaluation import FillMaskDataConfig
from distilray.errors import InputError
from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.readers import check_file, data_files, limit_rows, read_examples

ROWS = [
    {"texts": "<mask> is in <mask>.", "masks": ["Paris", "France"], "title": "x"},
    {"texts": 'he said "<mask>",\nand left', "masks": ["good day"], "title": "y"},
    {"texts": "日本 <mask> é", "masks": ["old"], "title": "z"},
]
EXAMPLES = [
    MaskedExample(1, ("", " is in ", "."), ("Paris", "France")),
    MaskedExample(2, ('he said "', '",\nand left'), ("good day",)),
    MaskedExample(3, ("日本 ", " é"), ("old",)),
]


def csv_bytes(rows):
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(["texts", "masks", "title"])
    writer.writerows([row["texts"], json.dumps(row["masks"]), row["title"]] for row in rows)
    return file.getvalue().encode()


def parquet_bytes(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    return file.getvalue()


def jsonl_bytes(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def data_of(tmp_path):
    """Write a file, and return the configuration that reads it."""

    def data_of(name, content, **settings):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return FillMaskDataConfig(path=str(tmp_path / name), **settings)

    return data_of


def read(data):
    return [row for file in data_files(data) for row in read_examples(file, data, seed=1)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl_bytes(ROWS)),
        ("a.json", b"\xef\xbb\xbf" + jsonl_bytes(ROWS)),
        ("a.jsonl.xz", lzma.compress(jsonl_bytes(ROWS))),
        ("a.ndjson.gz", gzip.compress(jsonl_bytes(ROWS), mtime=0)),
        ("a.csv", csv_bytes(ROWS)),
        ("a.csv.bz2", bz2.compress(csv_bytes(ROWS))),
        ("a.parquet", parquet_bytes(ROWS)),
        ("a.pq", parquet_bytes(ROWS)),
    ],
    ids=["jsonl", "byte order mark", "xz", "gzip", "csv", "bzip2", "parquet", "pq"],
)
def test_equal_rows_are_equal_examples_in_every_format(data_of, name, content):
    examples = read(data_of(name, content))
    assert [(row.fragments, row.answers) for row in examples] == [(row.fragments, row.answers) for row in EXAMPLES]
    assert [row.row for row in examples] == ([2, 4, 5] if "csv" in name else [1, 2, 3])  # in CSV, a row's last line


def test_the_columns_can_be_named(data_of):
    row = b'{"input_string": "[MASK] of [MASK]", "title": "Ann"}\n'
    data = data_of("a.jsonl", row, text_column="input_string", answer_column="title", scored_masks="first")
    assert read(data) == [MaskedExample(1, ("", " of ", ""), ("Ann",))]


def test_a_cell_of_csv_contains_one_answer_or_a_json_list(data_of):
    rows = read(data_of("a.csv", 'texts,masks\n<mask>,"a, b"\n<mask> <mask>,"[""a"", ""b""]"\n<mask>,[\'a\']'))
    assert [row.answers for row in rows[:2]] == [("a, b",), ("a", "b")]
    assert rows[2].reason == "answers_missing"


def test_plain_text_is_masked_line_by_line(data_of):
    rows = read(data_of("a.txt", "one two three\r\n\n  four five\n", masked_fraction=1.0))
    assert [(row.row, row.answers) for row in rows] == [(1, ("one", "two", "three")), (3, ("four", "five"))]
    assert rows[0].fragments == ("", " ", " ", "")


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "a.jsonl",
            [b'{"texts": "<mask>', b"[1]", b'{"masks": ["a"]}', b"", b"\xff", jsonl_bytes(ROWS[:1])],
            [(1, "json_malformed"), (2, "json_malformed"), (3, "column_missing"), (5, "not_utf8"), (6, None)],
        ),
        (
            "a.csv",
            [b"texts,masks", b"<mask>,a", b"<mask>", b"<mask> \xff,a", b"<mask>,b"],
            [(2, None), (3, "csv_malformed"), (4, "not_utf8"), (5, None)],
        ),
    ],
    ids=["jsonl", "csv"],
)
def test_bad_lines_have_a_number_and_a_reason_and_the_others_are_read(data_of, name, lines, expected):
    rows = read(data_of(name, b"\n".join(lines)))
    assert [(row.row, getattr(row, "reason", None)) for row in rows] == expected


@pytest.mark.parametrize(
    ("rows", "limits"),
    [(None, [None, None]), (2, [2]), (3, [3]), (4, [3, 1]), (99, [3, 3])],
)
def test_a_folder_is_read_in_order_of_names_up_to_a_limit(data_of, tmp_path, rows, limits):
    for name in ("b.jsonl", "a.jsonl", "_hidden.jsonl"):
        data_of(name, jsonl_bytes(ROWS))
    data = FillMaskDataConfig(path=str(tmp_path))
    files = limit_rows(data_files(data), data, seed=1, rows=rows)
    assert [(file.name, file.limit) for file in files] == list(zip(["a.jsonl", "b.jsonl"], limits, strict=False))
    assert [len(list(read_examples(file, data, seed=1))) for file in files] == [limit or 3 for limit in limits]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"x", r"'\.xyz'"),
        ("a.jsonl", b"", "no row"),
        ("a.jsonl", b'{"text": "<mask>", "masks": ["a"]}\n', "no 'texts' among 'text', 'masks'"),
        ("a.jsonl", b"plain words\n", "json_malformed"),
        ("a.csv", b"text,masks\n<mask>,a\n", r"data\.text_column"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
        ("a.parquet", parquet_bytes([{"texts": "<mask>", "title": "x"}]), r"data\.answer_column"),
        ("a.parquet", parquet_bytes([{"text": "<mask>", "masks": ["x"]}]), "text_column"),
        ("a.parquet", parquet_bytes([{"texts": 3, "masks": ["x"]}]), "column 'texts' is not a string"),
        ("a.jsonl.xz", lzma.compress(jsonl_bytes(ROWS))[:40], "cut short"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_an_unusable_file_is_refused(data_of, name, content, message):
    data = data_of(name, content)
    with pytest.raises(InputError, match=rf"^[^\n]*{name}[^\n]*{message}[^\n]*$"):
        check_file(data_files(data)[0], data, seed=1)


def test_one_usable_row_among_the_first_ones_is_sufficient(data_of):
    data = data_of("a.jsonl", b"bad\n" * 19 + jsonl_bytes(ROWS))
    check_file(data_files(data)[0], data, seed=1)
    data = data_of("a.jsonl", b"bad\n" * 20 + jsonl_bytes(ROWS))
    with pytest.raises(InputError, match=r"a\.jsonl:1: json_malformed"):
        check_file(data_files(data)[0], data, seed=1)


def test_files_of_two_formats_are_refused(data_of, tmp_path):
    data_of("a.jsonl", jsonl_bytes(ROWS))
    data_of("notes.txt", b"words\n")
    with pytest.raises(InputError, match=r"several formats \(jsonl, text\)"):
        data_files(FillMaskDataConfig(path=str(tmp_path)))


def test_a_truncated_file_is_an_input_error_at_its_end(data_of):
    with pytest.raises(InputError, match=r"a\.jsonl\.xz.*cut short"):
        read(data_of("a.jsonl.xz", lzma.compress(jsonl_bytes(ROWS * 3000))[:-60]))
