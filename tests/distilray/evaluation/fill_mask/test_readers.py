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
from distilray.formats.bad_rows import BadRow

ROWS = [
    {"texts": "<mask> is in <mask>.", "masks": ["Paris", "France"], "title": "x"},
    {"texts": 'he said "<mask>",\nand left', "masks": ["good day"], "title": "y"},
    {"texts": "日本 <mask> é", "masks": ["old"], "title": "z"},
]
EXAMPLES = [
    (("", " is in ", "."), ("Paris", "France")),
    (('he said "', '",\nand left'), ("good day",)),
    (("日本 ", " é"), ("old",)),
]


def csv_bytes(rows):
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["texts", "masks", "title"])
    writer.writerows([row["texts"], json.dumps(row["masks"]), row["title"]] for row in rows)
    return out.getvalue().encode()


def parquet_bytes(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=2)
    return out.getvalue()


def jsonl_bytes(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(path, seed=1, **settings):
    data = FillMaskDataConfig(path=str(path), **settings)
    return [row for file in data_files(data) for row in read_examples(file, data, seed=seed)]


def written(folder, name, content):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.jsonl", jsonl_bytes),
        ("a.json", lambda rows: b"\xef\xbb\xbf" + jsonl_bytes(rows)),
        ("a.jsonl.xz", lambda rows: lzma.compress(jsonl_bytes(rows))),
        ("a.ndjson.gz", lambda rows: gzip.compress(jsonl_bytes(rows))),
        ("a.csv", csv_bytes),
        ("a.csv.bz2", lambda rows: bz2.compress(csv_bytes(rows))),
        ("a.parquet", parquet_bytes),
    ],
)
def test_the_same_rows_are_the_same_examples_in_every_format(tmp_path, name, make):
    found = read(written(tmp_path, name, make(ROWS)))
    assert [(row.fragments, row.answers) for row in found] == EXAMPLES


def test_the_columns_can_be_named(tmp_path):
    file = written(tmp_path, "a.jsonl", b'{"input_string": "[MASK] of [MASK]", "title": "Ann"}\n')
    (found,) = read(file, text_column="input_string", answer_column="title", scored_masks="first")
    assert found == MaskedExample(1, ("", " of ", ""), ("Ann",))


def test_a_cell_of_csv_holds_one_answer_or_a_list_as_json(tmp_path):
    rows = ["texts,masks", '<mask>,"a, b"', '<mask> <mask>,"[""a"", ""b""]"', "<mask>,['a']"]
    found = read(written(tmp_path, "a.csv", "\n".join(rows).encode()))
    assert [row.answers for row in found[:2]] == [("a, b",), ("a", "b")]
    assert found[2].reason == "answers_missing"


def test_plain_text_is_masked_line_by_line(tmp_path):
    file = written(tmp_path, "a.txt", b"one two three\r\n\n  four five\n")
    found = read(file, masked_fraction=1.0)
    assert [(row.row, row.answers) for row in found] == [(1, ("one", "two", "three")), (3, ("four", "five"))]
    assert found[0].fragments == ("", " ", " ", "")


def test_bad_lines_are_told_by_number_and_reason_and_the_others_are_read(tmp_path):
    lines = [json.dumps(ROWS[0]), '{"texts": "<mask>', "[1]", '{"masks": ["a"]}', "", "\xff", json.dumps(ROWS[2])]
    found = read(written(tmp_path, "a.jsonl", "\n".join(lines).encode("latin-1", "backslashreplace")))
    assert [(row.row, row.reason) for row in found if isinstance(row, BadRow)] == [
        (2, "json_malformed"),
        (3, "json_malformed"),
        (4, "column_missing"),
        (6, "not_utf8"),
    ]
    assert [row.row for row in found if isinstance(row, MaskedExample)] == [1, 7]


def test_bad_rows_of_csv_are_told_and_the_others_are_read(tmp_path):
    lines = [b"texts,masks", b"<mask>,a", b"<mask>", b"<mask> \xff,a", b"<mask>,b"]
    found = read(written(tmp_path, "a.csv", b"\n".join(lines)))
    assert [getattr(row, "reason", None) for row in found] == [None, "csv_malformed", "not_utf8", None]


def test_a_folder_is_read_in_order_of_names_and_its_files_are_named_below_it(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "_hidden.jsonl"):
        written(tmp_path / "data", name, jsonl_bytes(ROWS[:1]))
    assert [file.name for file in data_files(FillMaskDataConfig(path=str(tmp_path / "data")))] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("rows", "shares"), [(2, {"a.jsonl": 2}), (4, {"a.jsonl": 3, "b.jsonl": 1}), (99, {"a.jsonl": 3, "b.jsonl": 3})]
)
def test_a_limit_takes_the_first_rows_of_all_files(tmp_path, rows, shares):
    for name in ("a.jsonl", "b.jsonl"):
        written(tmp_path, name, jsonl_bytes(ROWS))
    data = FillMaskDataConfig(path=str(tmp_path))
    files = limit_rows(data_files(data), data, seed=1, rows=rows)
    assert {file.name: file.limit for file in files} == shares
    assert [len(list(read_examples(file, data, seed=1))) for file in files] == list(shares.values())


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("a.xyz", lambda: b"x", "'.xyz'"),
        ("a.jsonl", lambda: b"", "no row"),
        ("a.jsonl", lambda: b'{"text": "<mask>", "masks": ["a"]}\n', "no 'texts' among 'text', 'masks'"),
        ("a.jsonl", lambda: b"plain words\n", "json_malformed"),
        ("a.csv", lambda: b"text,masks\n<mask>,a\n", "data.text_column"),
        ("a.parquet", lambda: b"PAR1", "no Parquet file"),
        ("a.parquet", lambda: parquet_bytes([{"texts": "<mask>", "title": "x"}]), "data.answer_column"),
        ("a.parquet", lambda: parquet_bytes([{"text": "<mask>", "masks": ["x"]}]), "text_column"),
        ("a.jsonl.xz", lambda: lzma.compress(jsonl_bytes(ROWS))[:40], "cut short"),
    ],
)
def test_a_file_that_is_none_of_the_data_is_one_line_that_says_so(tmp_path, name, make, told):
    data = FillMaskDataConfig(path=str(written(tmp_path, name, make())))

    def check():
        for file in data_files(data):
            check_file(file, data, seed=1)

    with pytest.raises(InputError) as caught:
        check()
    assert told in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_two_formats_are_refused(tmp_path):
    written(tmp_path, "a.jsonl", jsonl_bytes(ROWS))
    written(tmp_path, "notes.txt", b"words\n")
    with pytest.raises(InputError, match="several formats"):
        data_files(FillMaskDataConfig(path=str(tmp_path)))


def test_a_file_that_breaks_off_is_an_input_error_where_it_does(tmp_path):
    many = jsonl_bytes(ROWS * 3000)
    file = written(tmp_path, "a.jsonl.xz", lzma.compress(many)[:-60])
    with pytest.raises(InputError, match=r"a\.jsonl\.xz.*cut short"):
        read(file)
