import csv
import io

import pytest

from distilray.evaluation.glue.spreadsheets import is_spreadsheet, unquoted

ROWS = [
    ["index", "sentence1", "sentence2", "label"],
    ["0", 'He said "no".', "No, he said.", "entailment"],
    ["1", '"Ulysses" is long', "A plain text", "not_entailment"],
]
PLAIN = [row for row in ROWS if '"' not in row[1]] + [["2", "Yes, it is", "It is", "entailment"]]


def saved(rows, quoting):
    """The fields of a file that a spreadsheet writes, split at tabs."""
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n", quoting=quoting).writerows(rows)
    return [line.split("\t") for line in file.getvalue().splitlines()]


def with_commas_quoted(rows):
    return [[f'"{field}"' if "," in field else field for field in row] for row in rows]


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        (saved(ROWS, csv.QUOTE_MINIMAL), ROWS),
        (saved(ROWS, csv.QUOTE_ALL), ROWS),
        (saved(PLAIN, csv.QUOTE_ALL), PLAIN),
        (with_commas_quoted(PLAIN), PLAIN),
    ],
    ids=["minimal", "all", "all-without-quotes", "commas"],
)
def test_a_file_that_a_spreadsheet_saved_comes_back(fields, rows):
    assert is_spreadsheet(fields)
    assert [[unquoted(field) for field in row] for row in fields] == rows


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        PLAIN,
        [["0", '"All of it is direct speech."'], ["1", "None, of, it"]],
        [["0", '"All, of it"'], ["1", "None, of, it"]],
        [["0", '"a ""doubled"" quote"'], ["1", 'a plain " quote']],
        [["0", '"'], ["1", '""']],
        [["0", 'odd """']],
    ],
)
def test_quotes_that_are_text_make_no_spreadsheet(rows):
    assert not is_spreadsheet(rows)
