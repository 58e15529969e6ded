import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.corpus.decontamination import evaluation_files, read_texts
from distilray.errors import InputError


def write(path: Path, data: str | bytes = "text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


TABLE = pa.table(
    {
        "text": pa.array(["one", None], pa.large_string()),
        "many": [["two", "three"], []],
        "answers": [{"text": ["four"], "start": [1]}, {"text": [], "start": []}],
        "label": pa.array(["five", "five"]).dictionary_encode(),
        "number": [1, 2],
    }
)
FILES = {
    "set.tsv": ('a "quote\tb\r\n\tc', {'a "quote', "b", "c"}),
    "set.csv": ('a,"b, with\na break"\nc', {"a", "b, with\na break", "c"}),
    "set.jsonl": (json.dumps({"a": "one", "b": [["two"], {"c": "three"}], "n": 4}) + "\n\n", {"one", "two", "three"}),
    "set.ndjson": ('["one"]\n"two"', {"one", "two"}),
    "set.txt": ("\ufeffone\ntwo", {"one", "two"}),
    "SET.TXT": ("one", {"one"}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_text_of_a_file_is_read(tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    assert {text.strip() for text in read_texts(write(tmp_path / name, data))} - {""} == expected


def test_every_text_column_of_parquet_is_read(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "set.parquet")
    assert set(read_texts(str(tmp_path / "set.parquet"))) == {"one", "two", "three", "four", "five"}


@pytest.mark.parametrize(
    ("name", "data"),
    [("set.txt", b"\xff\xfe"), ("set.jsonl", b'"a"\n{'), ("set.csv", b"a,\xff"), ("set.parquet", b"PAR1")],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError, match=rf"^[^\n]*{name}: cannot be read as [^\n]*; mend the file or leave it out$"):
        list(read_texts(write(tmp_path / name, data)))


def test_a_bad_line_of_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 3"):
        list(read_texts(write(tmp_path / "set.jsonl", '"a"\n\n{"b"')))


def test_only_evaluated_splits_of_a_folder_are_read(tmp_path: Path) -> None:
    for name in ("dev.tsv", "train.tsv", "Test.csv", "dev_matched.tsv", "README.txt", "validation-0.parquet", "dev.md"):
        write(tmp_path / "MNLI" / name)
    read = [Path(uri).name for _, uri in evaluation_files(str(tmp_path))]
    assert read == ["Test.csv", "dev.tsv", "dev_matched.tsv", "validation-0.parquet"]


def test_a_set_in_a_folder_is_called_by_the_folder_that_holds_it(tmp_path: Path) -> None:
    write(tmp_path / "glue" / "RTE" / "dev.tsv")
    write(tmp_path / "glue" / "CoLA" / "test.tsv")
    assert [name for name, _ in evaluation_files(str(tmp_path / "glue"))] == ["CoLA", "RTE"]
    assert [name for name, _ in evaluation_files(str(tmp_path / "glue" / "RTE"))] == ["RTE"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("squad.jsonl", "squad"), ("train.tsv", "sets"), ("dev_matched.tsv", "sets"), ("test2.txt", "test2")],
)
def test_a_file_named_directly_calls_its_set_unless_it_is_only_a_split(
    tmp_path: Path, name: str, expected: str
) -> None:
    path = write(tmp_path / "sets" / name)
    assert evaluation_files(path) == [(expected, path)]


def test_a_pattern_means_the_files_themselves(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        write(tmp_path / name)
    assert [name for name, _ in evaluation_files(str(tmp_path / "*"))] == ["a", "b"]


def test_a_folder_without_an_evaluated_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "RTE" / "train.tsv")
    with pytest.raises(InputError, match="no name there begins with dev, test or validation; give the files"):
        evaluation_files(str(tmp_path))


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev\.md: no evaluation file there; .*\.tsv"):
        evaluation_files(write(tmp_path / "dev.md"))
