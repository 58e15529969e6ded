import io

import pytest
from rich.table import Table

from distilray.console import format_entries, output_width, print_tables, use_color

HEADINGS = ["student", "differs in", *(f"task number {number}" for number in range(12))]
ROW = ["no-cosine", "losses.alpha_cos 0.0", *(f"{number}.5 (1.0 to 9.0)" for number in range(12))]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def printed(columns, capsys):
    """Return the lines of a table with the first columns of HEADINGS."""
    table = Table(*HEADINGS[:columns], title="a title")
    table.add_row(*ROW[:columns])
    print_tables(table)
    return capsys.readouterr().out.splitlines()


def words_in(lines):
    return [word for line in lines for word in line.replace("│", " ").replace("┃", " ").split()]


@pytest.mark.parametrize("columns", [2, 5, 8, 14])
@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_table_fits_the_output_and_keeps_every_word(columns, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = printed(columns, capsys)
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)  # capsys is no terminal
    words = words_in(lines)
    assert not {word for cell in [*HEADINGS[:columns], *ROW[:columns]] for word in cell.split()} - set(words)


def test_a_table_that_is_too_wide_is_split_into_tables_with_the_first_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    words = words_in(printed(14, capsys))
    assert words.count("student") == words.count("no-cosine") > 1
    assert words.count("differs") == 1


def test_a_narrow_table_keeps_its_width(capsys):
    assert max(map(len, printed(2, capsys))) == 1 + len("no-cosine") + 3 + len("losses.alpha_cos 0.0") + 3


def test_a_word_that_is_wider_than_the_output_is_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    table = Table("name")
    table.add_row("x" * 50)
    print_tables(table)
    output = capsys.readouterr().out
    assert output.count("x") == 50
    assert max(map(len, output.splitlines())) <= 30


def test_the_output_is_100_columns_wide_without_a_terminal():
    assert output_width() == 100


def test_long_values_are_wrapped_below_their_first_line_and_paths_stay_whole():
    path = "/a/long-path/" + "x" * 90
    lines = format_entries({"short": 5, "": "", "words": "one-two " * 30, "path": f"at {path} now"}).splitlines()
    assert lines[0] == f"{'short':<16} 5"
    assert max(len(line) for line in lines if path not in line) <= 100
    assert all(line.startswith(" " * 17 + "one-two one-two") for line in lines[3:5])
    assert len(lines) > 6
    assert " " * 17 + path in lines


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "stream", "expected"), [
    ("", Terminal(), True), ("1", Terminal(), False), ("", io.StringIO(), False),
])  # fmt: skip
def test_colors_need_a_terminal_and_can_be_disabled(no_color, stream, expected, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    assert use_color(stream) is expected
