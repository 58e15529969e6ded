import zipfile
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.errors import InputError
from distilray.evaluation.glue import submission
from distilray.evaluation.glue.submission import FILES, prediction_file, validate_submission, write_submission

# Lines with the header, as the leaderboard counts them.
LINES = {
    **{"AX": 1105, "CoLA": 1064, "MNLI-mm": 9848, "MNLI-m": 9797, "MRPC": 1726, "QNLI": 5464},
    **{"QQP": 390966, "RTE": 3001, "SST-2": 1822, "STS-B": 1380, "WNLI": 147},
}
ROWS = 6


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Six rows in every test set."""
    monkeypatch.setattr(submission, "FILES", tuple(replace(file, rows=ROWS) for file in FILES))


def predictions(seed=0):
    """Class ids and scores for every test set."""
    by_task, random = {}, np.random.default_rng(seed)
    for file in FILES:
        values = random.integers(0, len(file.labels), ROWS) if file.labels else random.uniform(-1, 6, ROWS)
        by_task.setdefault(file.task, {})[file.test] = values
    return by_task


@pytest.fixture
def archive(tmp_path):
    write_submission(str(tmp_path / "submission.zip"), predictions())
    return tmp_path / "submission.zip"


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def edit(path, name, row, *lines):
    """Replace a line of a file, counted from 0, by others."""
    content = members(path)
    edited = content[f"{name}.tsv"].decode().splitlines()
    edited[row : row + 1] = lines
    write_zip(path, {**content, f"{name}.tsv": "".join(f"{line}\n" for line in edited).encode()})


def test_a_submission_has_the_files_and_rows_of_the_leaderboard(archive):
    assert {file.name: file.rows + 1 for file in FILES} == LINES
    assert FILES[-1].name == "AX"
    lines = {name: data.count(b"\n") for name, data in members(archive).items()}
    assert lines == {f"{name}.tsv": ROWS + 1 for name in LINES}


@pytest.mark.parametrize(
    ("names", "values", "cells"),
    [
        (["MNLI-m", "MNLI-mm", "AX"], [2, 1, 0, 0, 1, 2], "contradiction neutral entailment entailment neutral"),
        (["QNLI", "RTE"], [0, 1, 0, 0, 1, 0], "entailment not_entailment entailment entailment not_entailment"),
        (["CoLA", "SST-2", "MRPC", "QQP", "WNLI"], [0, 1, 0, 0, 1, 0], "0 1 0 0 1"),
        (["STS-B"], [-0.0, -3.0, 2.34567, 5.0004, 7.0, 1.0], "0.000 0.000 2.346 5.000 5.000"),
    ],
    ids=["three classes", "two classes", "numbers", "scores"],
)
def test_the_files_contain_header_index_and_labels(names, values, cells):
    expected = ["index\tprediction", *(f"{row}\t{cell}" for row, cell in enumerate(cells.split()))]
    for name in names:
        data = prediction_file(name, np.array(values)).decode()
        assert data.splitlines()[:6] == expected
        assert data.endswith("\n")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("RTE", np.zeros(ROWS - 1, int), "RTE: predictions of shape .* for 6 rows"),
        ("RTE", np.zeros((ROWS, 2), int), "RTE: predictions of shape"),
        ("RTE", np.full(ROWS, 2), "must be class ids from 0 to 1"),
        ("RTE", np.full(ROWS, -1), "must be class ids from 0 to 1"),
        ("RTE", np.zeros(ROWS), "must be class ids from 0 to 1"),
        ("STS-B", np.full(ROWS, np.nan), "STS-B: a prediction is not finite"),
    ],
)
def test_predictions_that_do_not_fit_the_test_set_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        prediction_file(name, values)


def test_only_test_sets_belong_to_a_submission(tmp_path):
    with pytest.raises(ValueError, match="rte dev does not belong to a submission"):
        write_submission(str(tmp_path / "s.zip"), {**predictions(), "rte": {"dev": np.zeros(ROWS, int)}})
    assert write_submission(str(tmp_path / "s.zip"), {**predictions(), "follows": {}}) == []


def test_equal_predictions_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_submission(str(tmp_path / name), predictions(), note="a note")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.comment == b"a note"


def test_a_missing_test_set_is_refused_or_filled_with_one_answer(tmp_path):
    incomplete = predictions()
    del incomplete["wnli"], incomplete["mnli"]["ax"], incomplete["stsb"]
    path = tmp_path / "s.zip"
    with pytest.raises(InputError, match=r"^submission: no test rows of STS-B, WNLI, AX; .*fill_missing=true$"):
        write_submission(str(path), incomplete)
    assert not path.exists()
    filled = write_submission(str(path), incomplete, fill_missing=True)
    assert filled == ["STS-B (2.5)", "WNLI (0)", "AX (entailment)"]
    content = members(path)
    assert content["WNLI.tsv"].split(b"\n")[1:-1] == [f"{row}\t0".encode() for row in range(ROWS)]
    assert content["STS-B.tsv"].split(b"\n")[1] == b"0\t2.500"
    assert content["RTE.tsv"] == prediction_file("RTE", incomplete["rte"]["test"])
    validate_submission(str(path))


def test_a_written_submission_is_valid_and_read_from_the_zip_alone(archive, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    validate_submission(str(archive))
    assert [path.name for path in archive.parent.iterdir()] == ["submission.zip"]
    for seed in range(5):
        write_submission(str(archive), predictions(seed))
        validate_submission(str(archive))
    for score in ("0", "5", "5.000", "0.0", "4.999999"):
        edit(archive, "STS-B", 3, f"2\t{score}")
        validate_submission(str(archive))
    write_zip(archive, {name: data.removesuffix(b"\n") for name, data in members(archive).items()})
    validate_submission(str(archive))


EDITS = {
    "removed": lambda line: [],
    "blank line before": lambda line: ["", line],
    "wrong index": lambda line: ["7" + line],
    "zero before the index": lambda line: ["0" + line],
    "space before the index": lambda line: [" " + line],
    "wrong label": lambda line: [line + "x"],
    "carriage return": lambda line: [line + "\r"],
    "third column": lambda line: [line + "\t1"],
    "space instead of tab": lambda line: [line.replace("\t", " ")],
    "no prediction": lambda line: [line.partition("\t")[0] + "\t"],
    "long line": lambda line: [line + "1" * 10_000],
    "not ASCII": lambda line: [line + "٣"],
}


@settings(max_examples=60)
@given(st.sampled_from(sorted(LINES)), st.sampled_from(sorted(EDITS)), st.integers(0, ROWS))
def test_an_edited_line_is_refused_by_name_and_number(tmp_path_factory, name, change, row):
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    write_submission(str(path), predictions())
    line = members(path)[f"{name}.tsv"].decode().splitlines()[row]
    edit(path, name, row, *EDITS[change](line))
    with pytest.raises(InputError, match=rf"^[^\n]*s\.zip: {name}\.tsv, line {row + 1}: [^\n]*$"):
        validate_submission(str(path))


@pytest.mark.parametrize(
    ("name", "row", "lines", "message"),
    [
        *(("STS-B", 3, [f"2\t{score}"], "line 4: score ") for score in ("5.001", "-0.1", "nan", "inf", "1e0", "", "6")),
        *(("STS-B", 3, [f"2\t{score}"], "line 4: score ") for score in ("2,5", "+1", " 1", "1_0", "٣", "0x1", "10")),
        ("QNLI", 2, ["1\tneutral"], "line 3: label 'neutral' is none of"),
        ("CoLA", 2, ["1\tentailment"], "line 3: label 'entailment' is none of"),
        ("WNLI", 2, ["1\t1.0"], r"line 3: label '1\.0' is none of"),
        ("AX", 2, ["1\t0"], "line 3: label '0' is none of"),
        ("RTE", 0, ["Index\tprediction"], "line 1: header "),
        ("RTE", 2, ["1\tentailment", "1\tentailment"], "line 4: index '1', expected 2"),
        ("RTE", 6, ["5\tentailment", "6\tentailment"], "line 8: more than 6 rows"),
        ("RTE", 6, [], "line 7: the file ends after 6 lines of 7"),
    ],
)
def test_an_invalid_prediction_is_refused(archive, name, row, lines, message):
    edit(archive, name, row, *lines)
    with pytest.raises(InputError, match=rf"{name}\.tsv, {message}"):
        validate_submission(str(archive))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: {name: data for name, data in files.items() if name != "AX.tsv"}, "AX.tsv missing"),
        (lambda files: {**files, "notes.txt": b""}, "'notes.txt' does not belong to a submission"),
        (lambda files: {**files, "rte.tsv": b""}, "'rte.tsv' does not belong to a submission"),
        (lambda files: {f"glue/{name}": data for name, data in files.items()}, "'glue/CoLA.tsv' is a folder or in"),
        (lambda files: {"submission/": b"", **files}, "'submission/' is a folder or in one"),
        (lambda files: {**files, "../RTE.tsv": b""}, "'../RTE.tsv' is a folder or in one"),
        (lambda files: {**files, "a\\RTE.tsv": b""}, ".*RTE.tsv. is a folder or in one"),
        (lambda files: {}, "CoLA.tsv, .*AX.tsv missing"),
        (lambda files: {**files, "RTE.tsv": bytes(1 << 17)}, r"RTE\.tsv has 131,072 bytes"),
    ],
)
def test_unexpected_files_in_a_zip_are_refused(archive, monkeypatch, change, message):
    monkeypatch.setattr(submission, "_MAX_BYTES", 1 << 16)
    write_zip(archive, change(members(archive)))
    with pytest.raises(InputError, match=rf"^[^\n]*submission\.zip: {message}[^\n]*$"):
        validate_submission(str(archive))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_encrypted_or_unusually_compressed_file_is_refused(archive):
    content, data = members(archive), bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first file in the directory
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"CoLA\.tsv is encrypted"):
        validate_submission(str(archive))
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        write_zip(archive, content, compression)
        with pytest.raises(InputError, match=r"CoLA\.tsv has an unsupported compression"):
            validate_submission(str(archive))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("RTE.tsv", "")
    with pytest.raises(InputError, match=r"RTE\.tsv occurs twice"):
        validate_submission(str(archive))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "no such file"),
        ("folder", "no such file"),
        ("text", "not a complete zip"),
        ("large", "larger than 0 MiB"),
        ("s3://bucket/submission.zip?region=eu-west-1", "copy it to a local path"),
    ],
)
def test_a_path_that_is_not_a_local_zip_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.setattr(submission, "_MAX_BYTES", 100)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no zip")
    (tmp_path / "large").write_text("no zip" * 100)
    with pytest.raises(InputError, match=message):
        validate_submission(path if "://" in path else str(tmp_path / path))


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_zip_raises_only_input_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    write_submission(str(path), predictions())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else content)
    with suppress(InputError):
        validate_submission(str(path))
