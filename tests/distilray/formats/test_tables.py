from collections.abc import Iterable

import pytest

from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import lines_of
from distilray.formats.streams import UnreadableError
from distilray.formats.tables import DelimitedRows, Row, column_positions, json_rows

TABLE = b'a,b\n1,2\n\n"3\n4",5\n6\n7,8\n'


def shown(rows: Iterable[Row | BadRow]) -> list[object]:
    return [row.reason if isinstance(row, BadRow) else row.values for row in rows]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_in_memory_may_have_any_end(end: bytes) -> None:
    lines = list(lines_of(end.join([b"one", b"", b"two"]) + end))
    assert [line.data for line in lines] == [b"one", b"", b"two"]
    assert [line.offset for line in lines] == [0, 3 + len(end), 3 + 2 * len(end)]


def test_rows_have_the_number_of_their_last_line_and_of_the_cells_of_the_header() -> None:
    assert ["6"] in shown(DelimitedRows(lines_of(TABLE), "t.csv", max_bytes=100))
    rows = DelimitedRows(lines_of(TABLE), "t.csv", max_bytes=100)
    assert rows.header() == ["a", "b"]
    read = list(rows)
    assert [row.row if isinstance(row, BadRow) else row.number for row in read] == [2, 5, 6, 7]
    assert shown(read) == [["1", "2"], ["3\n4", "5"], "csv_malformed", ["7", "8"]]


@pytest.mark.parametrize(
    ("data", "strict", "expected"),
    [
        (b"a,b\n1," + b"x" * 50 + b"\n2,3\n", False, [["a", "b"], "too_large", ["2", "3"]]),
        (b'a,b\n"a"b,c\n', True, [["a", "b"], "csv_malformed"]),
        (b'a,b\n"a"b,c\n', False, [["a", "b"], ["ab", "c"]]),
    ],
    ids=["a line over the limit", "text after a quote", "text after a quote that is accepted"],
)
def test_bad_rows_are_reported_and_the_next_is_read(data: bytes, strict: bool, expected: list[object]) -> None:
    assert shown(DelimitedRows(lines_of(data), "t.csv", max_bytes=20, strict=strict)) == expected


def test_a_header_that_cannot_be_parsed_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="header"):
        DelimitedRows(lines_of(b'"a\n'), "t.csv", max_bytes=100).header()


def test_values_that_are_no_objects_are_bad_rows_unless_accepted() -> None:
    lines = list(lines_of(b'{"a": 1}\n\n[2]\n'))
    assert shown(json_rows(lines, "t.jsonl", max_bytes=100)) == [{"a": 1}, "json_malformed"]
    assert shown(json_rows(lines, "t.jsonl", max_bytes=100, objects=False)) == [{"a": 1}, [2]]


@pytest.mark.parametrize("header", [["b"], ["a", "a"]])
def test_a_column_must_be_there_once(header: list[str]) -> None:
    with pytest.raises(InputError, match="to one of"):
        column_positions("t.csv", header, {"data.text": "a"})
