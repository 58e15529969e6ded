"""Choice of the column that has the text."""

import json
from pathlib import Path

import pytest

from distilray.corpus.text_columns import csv_settings, json_lines_settings
from distilray.errors import InputError

SENTENCE = "The river rises in the hills behind the old town."


@pytest.mark.parametrize(
    ("row", "wanted", "column"),
    [
        ({"id": "7", "text": SENTENCE}, None, "text"),
        ({"Body": SENTENCE, "comment": SENTENCE * 3}, None, "Body"),  # a usual name in other letters
        ({"text": "a b", "comment": SENTENCE * 3}, None, "comment"),  # a usual name, but hardly any text
        ({"url": "https://example.org/" + "x" * 500, "remark": SENTENCE}, None, "remark"),  # links are not text
        ({"remark": SENTENCE, "summary": SENTENCE * 2}, None, "summary"),
        ({"remark": SENTENCE, "text": SENTENCE * 2}, "remark", "remark"),
        ({"n": 1, "tags": ["a b"], "remark": SENTENCE}, None, "remark"),
    ],
)
def test_the_column_with_the_text_is_chosen(tmp_path: Path, row: dict[str, object], wanted: str | None, column: str):
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    assert json_lines_settings([f"{tmp_path}/a.jsonl"], wanted).values == {"text_column": column}


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_the_delimiter_of_a_csv_file_is_detected(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "a.csv").write_text(f"no{delimiter}remark\n1{delimiter}{SENTENCE}\n")
    chosen = csv_settings([f"{tmp_path}/a.csv"], None)
    assert chosen.values == {"text_column": "remark", "delimiter": delimiter}


@pytest.mark.parametrize(("wanted", "message"), [("story", "no text in column 'story'"), (None, "no column with text")])
def test_a_table_without_the_text_is_refused_with_the_names_of_its_columns(
    tmp_path: Path, wanted: str | None, message: str
) -> None:
    (tmp_path / "a.csv").write_text("price,code\n1.5,abc\n2.5,def\n")
    with pytest.raises(InputError, match=f"{message}.* 'price', 'code'"):
        csv_settings([f"{tmp_path}/a.csv"], wanted)


def test_wrapped_lines_of_a_column_are_joined(tmp_path: Path) -> None:
    page = (
        "The river rises in the hills behind the old town and\n"
        "reaches the sea after forty miles of slow water, and\nnobody knows how deep it is between these hills.\n"
    )
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'text': page * 3})}\n" * 3)
    assert json_lines_settings([f"{tmp_path}/a.jsonl"], None).values["hard_wrapped"]
