import csv
import io

import pytest

from distilray.finetuning.tsv_files import is_spreadsheet, unquote

ROWS = [
    ["index", "sentence1", "sentence2", "label"],
    ["0", 'He said "no".', "No, he said.", "entailment"],
    ["1", '"Ulysses" is long', "A plain text", "not_entailment"],
]
PLAIN = [row for row in ROWS if '"' not in row[1]] + [["2", "Yes, it is", "It is", "entailment"]]


def lines(rows):
    return ["\t".join(row) for row in rows]


def saved(rows, quoting):
    """Return the lines of a file saved by a spreadsheet."""
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n", quoting=quoting).writerows(rows)
    return file.getvalue().splitlines()


def with_commas_quoted(rows):
    return lines([[f'"{field}"' if "," in field else field for field in row] for row in rows])


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        (saved(ROWS, csv.QUOTE_MINIMAL), ROWS),
        (saved(ROWS, csv.QUOTE_ALL), ROWS),
        (saved(PLAIN, csv.QUOTE_ALL), PLAIN),
        (with_commas_quoted(PLAIN), PLAIN),
    ],
    ids=["minimal", "all", "all-without-quotes", "commas"],
)
def test_a_file_that_a_spreadsheet_saved_comes_back(file, rows):
    assert is_spreadsheet(file)
    assert [unquote(line) for line in file] == lines(rows)


@pytest.mark.parametrize(
    "rows",
    [
        [],
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
    assert not is_spreadsheet(lines(rows))
