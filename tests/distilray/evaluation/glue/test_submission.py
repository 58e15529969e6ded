import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distilray.config.glue import TaskName
from distilray.errors import InputError
from distilray.evaluation.glue import submission
from distilray.evaluation.glue.submission import FILES, prediction_file, validate_submission, write_submission

# Lines with the header, as the leaderboard counts them.
LINES = {
    "AX": 1105,
    "CoLA": 1064,
    "MNLI-mm": 9848,
    "MNLI-m": 9797,
    "MRPC": 1726,
    "QNLI": 5464,
    "QQP": 390966,
    "RTE": 3001,
    "SST-2": 1822,
    "STS-B": 1380,
    "WNLI": 147,
}
ROWS = 6

Found = dict[TaskName, dict[str, NDArray[np.generic]]]
Edit = Callable[[list[str]], list[str]]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six rows in every test set."""
    monkeypatch.setattr(submission, "FILES", tuple(replace(file, rows=ROWS) for file in FILES))


def predictions(seed: int = 0) -> Found:
    """Class ids and scores for every test set."""
    found: Found = {}
    generator = np.random.default_rng(seed)
    for file in submission.FILES:
        values = (
            generator.integers(0, len(file.labels), file.rows) if file.labels else generator.uniform(-1, 6, file.rows)
        )
        found.setdefault(file.task, {})[file.test] = values
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_submission(str(tmp_path / "submission.zip"), predictions())
    return tmp_path / "submission.zip"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def write_zip(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in content.items():
            opened.writestr(name, data)


def edited(path: Path, name: str, edit: Edit) -> None:
    content = members(path)
    lines = edit(content[f"{name}.tsv"].decode().removesuffix("\n").split("\n"))
    write_zip(path, {**content, f"{name}.tsv": ("\n".join(lines) + "\n").encode()})


def test_a_whole_submission_has_the_lines_that_the_leaderboard_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "FILES", FILES)
    filled = write_submission(str(tmp_path / "s.zip"), {}, fill_missing=True)
    assert {name: data.count(b"\n") for name, data in members(tmp_path / "s.zip").items()} == {
        f"{name}.tsv": count for name, count in LINES.items()
    }
    assert len(filled) == len(LINES)
    validate_submission(str(tmp_path / "s.zip"))


def test_the_files_hold_header_index_and_words() -> None:
    ids = np.array([2, 1, 0, 0, 1, 2])
    lines = ["index\tprediction", "0\tcontradiction", "1\tneutral", "2\tentailment"]
    for name in ("MNLI-m", "MNLI-mm", "AX"):
        assert prediction_file(name, ids).decode().split("\n")[:4] == lines
        assert prediction_file(name, ids).endswith(b"5\tcontradiction\n")
    for name in ("QNLI", "RTE"):
        assert prediction_file(name, ids % 2).decode().split("\n")[1:4] == [
            "0\tentailment",
            "1\tnot_entailment",
            "2\tentailment",
        ]
    for name in ("CoLA", "SST-2", "MRPC", "QQP", "WNLI"):
        assert prediction_file(name, ids % 2).decode().split("\n")[1:4] == ["0\t0", "1\t1", "2\t0"]


def test_scores_have_three_decimals_and_are_cut() -> None:
    values = np.array([-0.0, -3.0, 2.34567, 5.0004, 7.0, -0.0001])
    assert prediction_file("STS-B", values).decode().split("\n")[1:-1] == [
        "0\t0.000",
        "1\t0.000",
        "2\t2.346",
        "3\t5.000",
        "4\t5.000",
        "5\t0.000",
    ]


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("RTE", np.zeros(ROWS - 1, int), "RTE: predictions of shape .* for 6 rows"),
        ("RTE", np.zeros((ROWS, 2), int), "RTE: predictions of shape"),
        ("RTE", np.full(ROWS, 2), "no class ids from 0 to 1"),
        ("RTE", np.full(ROWS, -1), "no class ids from 0 to 1"),
        ("RTE", np.zeros(ROWS), "no class ids from 0 to 1"),
        ("STS-B", np.full(ROWS, np.nan), "STS-B: a prediction is not finite"),
    ],
)
def test_predictions_that_are_not_of_the_test_set_are_refused(
    name: str, values: NDArray[np.generic], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        prediction_file(name, values)


def test_predictions_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rte dev is in no submission"):
        write_submission(str(tmp_path / "s.zip"), {**predictions(), "rte": {"dev": np.zeros(ROWS, int)}})


def test_equal_predictions_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_submission(str(tmp_path / name), predictions())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as opened:
        assert {member.date_time for member in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_absent_test_set_is_refused_unless_it_is_to_be_filled(tmp_path: Path) -> None:
    found = predictions()
    del found["wnli"], found["mnli"]["ax"], found["stsb"]
    path = tmp_path / "s.zip"
    with pytest.raises(InputError, match=r"^submission: no test rows of STS-B, WNLI, AX; .*fill_missing=true$"):
        write_submission(str(path), found)
    assert not path.exists()
    assert write_submission(str(path), found, fill_missing=True) == ["STS-B (2.5)", "WNLI (0)", "AX (entailment)"]
    content = members(path)
    assert content["WNLI.tsv"].split(b"\n")[1:-1] == [f"{row}\t0".encode() for row in range(ROWS)]
    assert content["STS-B.tsv"].split(b"\n")[1] == b"0\t2.500"
    assert content["RTE.tsv"] == prediction_file("RTE", found["rte"]["test"])
    validate_submission(str(path))


def test_a_task_without_a_test_set_adds_nothing(tmp_path: Path) -> None:
    assert write_submission(str(tmp_path / "s.zip"), {**predictions(), "follows": {}}) == []
    validate_submission(str(tmp_path / "s.zip"))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_written_is_valid(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    write_submission(str(path), predictions(seed))
    validate_submission(str(path))


def _swap(lines: list[str], row: int) -> list[str]:
    return [*lines[:row], lines[row + 1], lines[row], *lines[row + 2 :]]


EDITS: dict[str, Callable[[list[str], int], list[str]]] = {
    "removed": lambda lines, row: lines[:row] + lines[row + 1 :],
    "repeated": lambda lines, row: lines[:row] + lines[row : row + 1] + lines[row:],
    "blank": lambda lines, row: [*lines[:row], "", *lines[row:]],
    "swapped": lambda lines, row: _swap(lines, row),
    "index": lambda lines, row: [*lines[:row], "7" + lines[row], *lines[row + 1 :]],
    "word": lambda lines, row: [*lines[:row], lines[row] + "x", *lines[row + 1 :]],
    "carriage return": lambda lines, row: [*lines[:row], lines[row] + "\r", *lines[row + 1 :]],
    "third column": lambda lines, row: [*lines[:row], lines[row] + "\t1", *lines[row + 1 :]],
    "space for tab": lambda lines, row: [*lines[:row], lines[row].replace("\t", " "), *lines[row + 1 :]],
    "space before": lambda lines, row: [*lines[:row], " " + lines[row], *lines[row + 1 :]],
    "no prediction": lambda lines, row: [*lines[:row], lines[row].partition("\t")[0] + "\t", *lines[row + 1 :]],
    "zero before": lambda lines, row: [*lines[:row], "0" + lines[row], *lines[row + 1 :]],
    "long": lambda lines, row: [*lines[:row], lines[row] + "1" * 10_000, *lines[row + 1 :]],
    "not ascii": lambda lines, row: [*lines[:row], lines[row] + "٣", *lines[row + 1 :]],
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LINES)), st.sampled_from(sorted(EDITS)), st.integers(0, ROWS))
def test_a_line_that_was_edited_is_refused_by_name_and_number(
    tmp_path_factory: pytest.TempPathFactory, name: str, edit: str, row: int
) -> None:
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    write_submission(str(path), predictions())
    row = min(row, ROWS - 1) if edit == "swapped" else row
    edited(path, name, lambda lines: EDITS[edit](lines, row))
    # After a line that is there twice, the second one is the first that is wrong.
    line = row + 1 + (edit == "repeated")
    with pytest.raises(InputError, match=rf"^[^\n]*s\.zip: {name}\.tsv, line {line}: [^\n]*$"):
        validate_submission(str(path))


@pytest.mark.parametrize("score", ["5.001", "-0.1", "nan", "inf", "1e0", "", "2,5", "6", "+1", " 1", "1_0", "٣", "0x1"])
def test_a_score_that_is_no_number_from_0_to_5_is_refused(archive: Path, score: str) -> None:
    edited(archive, "STS-B", lambda lines: [*lines[:3], f"2\t{score}", *lines[4:]])
    with pytest.raises(InputError, match=r"STS-B\.tsv, line 4: score "):
        validate_submission(str(archive))


@pytest.mark.parametrize("score", ["0", "5", "5.000", "0.0", "4.999999"])
def test_any_way_to_write_a_score_from_0_to_5_is_taken(archive: Path, score: str) -> None:
    edited(archive, "STS-B", lambda lines: [*lines[:3], f"2\t{score}", *lines[4:]])
    validate_submission(str(archive))


@pytest.mark.parametrize(("name", "word"), [("QNLI", "neutral"), ("CoLA", "entailment"), ("WNLI", "1.0"), ("AX", "0")])
def test_a_word_of_another_task_is_refused(archive: Path, name: str, word: str) -> None:
    edited(archive, name, lambda lines: [*lines[:2], f"1\t{word}", *lines[3:]])
    with pytest.raises(InputError, match=rf"{name}\.tsv, line 3: label '{word}' is none of"):
        validate_submission(str(archive))


def test_wrong_numbers_of_rows_are_told(archive: Path) -> None:
    edited(archive, "RTE", lambda lines: [*lines, f"{ROWS}\tentailment"])
    with pytest.raises(InputError, match=r"RTE\.tsv, line 8: more than 6 rows"):
        validate_submission(str(archive))
    edited(archive, "RTE", lambda lines: lines[:-2])
    with pytest.raises(InputError, match=r"RTE\.tsv, line 7: the file ends after 6 lines of 7"):
        validate_submission(str(archive))


def test_a_last_line_without_its_end_is_taken(archive: Path) -> None:
    write_zip(archive, {name: data.removesuffix(b"\n") for name, data in members(archive).items()})
    validate_submission(str(archive))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: {name: data for name, data in content.items() if name != "AX.tsv"}, "AX.tsv not there"),
        (lambda content: {**content, "notes.txt": b""}, "'notes.txt' does not belong there"),
        (lambda content: {**content, "rte.tsv": b""}, "'rte.tsv' does not belong there"),
        (lambda content: {f"submission/{name}": data for name, data in content.items()}, "'submission/CoLA.tsv' is in"),
        (lambda content: {"submission/": b"", **content}, "'submission/' is in or is a folder"),
        (lambda content: {**content, "../RTE.tsv": b""}, "'../RTE.tsv' is in or is a folder"),
        (lambda content: {}, "CoLA.tsv, .*AX.tsv not there"),
    ],
)
def test_the_names_in_a_zip_are_checked(
    archive: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], told: str
) -> None:
    write_zip(archive, change(members(archive)))
    with pytest.raises(InputError, match=rf"^[^\n]*submission\.zip: {told}[^\n]*$"):
        validate_submission(str(archive))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("RTE.tsv", "")
    with pytest.raises(InputError, match=r"RTE\.tsv is there twice"):
        validate_submission(str(archive))


def test_a_member_that_unpacks_to_much_is_refused_unread(archive: Path) -> None:
    write_zip(archive, {**members(archive), "RTE.tsv": bytes(65 << 20)})
    assert archive.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"RTE\.tsv has 68,157,440 bytes"):
        validate_submission(str(archive))


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_rare_compression_is_refused(archive: Path, kind: int) -> None:
    content = members(archive)
    with zipfile.ZipFile(archive, "w", kind) as opened:
        for name, data in content.items():
            opened.writestr(name, data)
    with pytest.raises(InputError, match=r"CoLA\.tsv is compressed in a rare way"):
        validate_submission(str(archive))


def test_an_encrypted_member_is_refused(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first member in the directory
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"CoLA\.tsv is encrypted"):
        validate_submission(str(archive))


def test_what_is_no_file_of_this_machine_or_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no zip")
    for path, told in {
        str(tmp_path / "absent"): "no such file",
        str(tmp_path): "no such file",
        str(tmp_path / "text"): "not a whole zip",
        "s3://bucket/submission.zip?region=eu-west-1": "copy it to a local path",
    }.items():
        with pytest.raises(InputError, match=told):
            validate_submission(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_zip_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    write_submission(str(path), predictions())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else content)
    with suppress(InputError):
        validate_submission(str(path))


def test_a_submission_is_read_from_the_zip_alone(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    validate_submission(str(archive))
    assert [path.name for path in archive.parent.iterdir()] == ["submission.zip"]
