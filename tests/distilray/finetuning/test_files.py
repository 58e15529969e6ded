import os
from dataclasses import replace

import numpy as np
import pytest

from distilray.config.glue import GLUE_TASKS
from distilray.errors import InputError
from distilray.finetuning.files import find_tasks, input_files, load_task
from distilray.finetuning.tasks import TASKS
from distilray.runtime.run_folder import describe_input
from tests.tiny.glue import FOLDERS, labels_of, raw_lines, small_rows, write_glue, write_hub, write_lines, write_raw

LAYOUTS = {"raw": write_raw, "hub": write_hub}
SINGLE_TEXT = ("cola", "sst2")


@pytest.fixture(params=list(LAYOUTS))
def layout(request):
    return request.param


@pytest.fixture
def small_counts(monkeypatch):
    """Make the row counts of the small files the official ones."""
    for name in GLUE_TASKS:
        counts = {split: (count,) for split, count in small_rows(name).items()}
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], row_counts=counts))


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_split_of_every_task_is_read_from_both_layouts(tmp_path, layout, name):
    glue_dir, task = write_glue(tmp_path, [name], layout=layout), TASKS[name]
    assert find_tasks(glue_dir, GLUE_TASKS) == ([name], [other for other in GLUE_TASKS if other != name])
    data = load_task(glue_dir, name, with_test=True)
    splits = {"train": data.train, **data.dev, **data.test}
    assert {split: len(rows) for split, rows in splits.items()} == small_rows(name)
    assert (tuple(data.dev), tuple(data.test)) == (task.dev, task.test)
    assert (data.dropped, data.unofficial_splits, data.remarks) == ({}, [], [])
    for split, rows in splits.items():
        assert rows.first == [f"first {row}" for row in range(len(rows))]
        assert rows.second == (None if name in SINGLE_TEXT else [f"second {row}" for row in range(len(rows))])
        if split in task.test:
            assert rows.labels is None
            continue
        words = [labels_of(name)[row % len(labels_of(name))] for row in range(len(rows))]
        assert rows.labels.tolist() == [float(word) if name == "stsb" else task.labels.index(word) for word in words]
        assert rows.labels.dtype == (np.float32 if name == "stsb" else np.int64)


@pytest.mark.usefixtures("small_counts")
def test_a_test_file_is_opened_only_on_request(tmp_path, layout):
    glue_dir = write_glue(tmp_path, layout=layout)
    tests = [path for path in tmp_path.rglob("*") if path.name.startswith(("test", "AX."))]
    assert len(tests) == len(GLUE_TASKS) + 2
    for path in tests:
        path.write_bytes(b"broken")
    for name in GLUE_TASKS:
        assert load_task(glue_dir, name).test == {}
        with pytest.raises(InputError):
            load_task(glue_dir, name, with_test=True)


def test_unofficial_train_rows_are_accepted_on_request_and_reported(tmp_path, layout):
    glue_dir = write_glue(tmp_path, ["wnli"], layout=layout, official=True)
    LAYOUTS[layout](tmp_path, "wnli", {"train": 20})
    with pytest.raises(InputError, match=r"20 rows, but WNLI has 635; .*allow_other_row_counts=true"):
        load_task(glue_dir, "wnli")
    data = load_task(glue_dir, "wnli", with_test=True, any_row_counts=True)
    assert (len(data.train), list(data.unofficial_splits)) == (20, ["train 20 (635)"])


def test_unofficial_test_rows_are_never_accepted(tmp_path, layout):
    glue_dir = write_glue(tmp_path, ["wnli"], layout=layout, official=True)
    LAYOUTS[layout](tmp_path, "wnli", {"test": 20})
    assert list(load_task(glue_dir, "wnli", any_row_counts=True).unofficial_splits) == []
    with pytest.raises(InputError, match=r"20 rows, but WNLI has 146; get the official file again$"):
        load_task(glue_dir, "wnli", with_test=True, any_row_counts=True)


def test_torn_rows_of_qqp_are_counted_and_may_belong_to_the_official_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "qqp", replace(TASKS["qqp"], row_counts={"train": (4, 7), "dev": (3,)}))
    for split, rows in (("train", 6), ("dev", 5)):
        write_lines(tmp_path / "QQP" / f"{split}.tsv", [*raw_lines("qqp", split, rows), "0\t1\ttorn"])
    data = load_task(str(tmp_path), "qqp", any_row_counts=True)
    assert list(data.unofficial_splits) == ["dev 5 (3)"]
    assert data.dropped == {"torn rows": 2}


def test_remarks_name_the_split(tmp_path):
    write_glue(tmp_path, ["wnli"], official=True)
    file = tmp_path / "WNLI" / "dev.tsv"
    file.write_text(file.read_text().replace("first 3\t", '"a ""quote"""\t'))
    assert list(load_task(str(tmp_path), "wnli").remarks) == ["dev: quotes of a spreadsheet removed"]


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize(("name", "folder"), [("sst2", "sst-2"), ("sst2", "SST2"), ("stsb", "STSB"), ("cola", "COLA")])
def test_folder_names_are_recognized_in_any_case(tmp_path, name, folder):
    write_raw(tmp_path, name, small_rows(name))
    (tmp_path / FOLDERS[name]).rename(tmp_path / folder)
    assert find_tasks(str(tmp_path), [name]) == ([name], [])
    assert len(load_task(str(tmp_path), name).train) == small_rows(name)["train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["RTE/dev.tsv"], r"RTE/train\.tsv: no such file"),
        (["SST-2/train.tsv"], "RTE: no such folder; put the files of RTE there"),
        (["rte/train.tsv", "RTE/train.tsv"], "RTE and rte are both folders of RTE; keep one"),
        (["cola/train.tsv", "COLA/train.tsv", "RTE/train.tsv"], "COLA and cola are both folders of CoLA"),
        (["RTE/dev.tsv", "RTE/train/0000.parquet"], r"RTE: contains dev\.tsv and train/0000\.parquet; keep the"),
        (["RTE/original/train.txt"], "RTE: no TSV or Parquet files"),
        ([], "glue_dir: .*glue is not a folder"),
    ],
)
def test_a_folder_that_is_incomplete_or_ambiguous_is_refused(tmp_path, files, message):
    for name in files:
        write_lines(tmp_path / "glue" / name, ["sentence1\tsentence2\tlabel"])
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        load_task(str(tmp_path / "glue"), "rte")


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize(
    "file",
    ["AX/AX.tsv", "AX/test.tsv", "ax/AX.tsv", "diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv", "diagnostic.tsv"],
)
def test_the_diagnostic_set_is_found_at_its_usual_paths(tmp_path, file):
    rows = small_rows("mnli")
    count = rows.pop("ax")
    write_raw(tmp_path, "mnli", rows)
    assert tuple(load_task(str(tmp_path), "mnli", with_test=True).test) == ("test_matched", "test_mismatched")
    assert list(input_files(str(tmp_path), ["mnli"])) == ["glue_mnli"]
    write_lines(tmp_path / file, raw_lines("mnli", "ax", count))
    assert len(load_task(str(tmp_path), "mnli", with_test=True).test["ax"]) == count
    assert "glue_ax" in input_files(str(tmp_path), ["mnli"])
    if file == "AX/AX.tsv":
        (tmp_path / file).rename(tmp_path / "AX" / "other.tsv")
        with pytest.raises(InputError, match=r"AX/AX\.tsv: no such file; put the diagnostic set there"):
            load_task(str(tmp_path), "mnli", with_test=True)


def test_the_inputs_of_a_run_are_the_folders_of_its_tasks(tmp_path):
    glue_dir = write_glue(tmp_path, ["cola", "sst2", "mnli"])
    inputs = input_files(glue_dir, ["mnli", "cola", "rte"])
    folders = {"glue_mnli": "MNLI", "glue_cola": "CoLA", "glue_ax": "AX"}
    assert inputs == {name: str(tmp_path / folder) for name, folder in folders.items()}
    assert all(describe_input(uri)["bytes"] > 0 for uri in inputs.values())
    assert list(input_files(glue_dir, ["cola"])) == ["glue_cola"]


@pytest.mark.usefixtures("small_counts")
def test_a_folder_may_be_a_uri_and_missing_tasks_are_listed_in_the_requested_order(tmp_path):
    write_glue(tmp_path / "my glue", ["rte"])
    write_glue(tmp_path / "my glue", ["cola"], layout="hub")
    uri = (tmp_path / "my glue").as_uri()
    assert find_tasks(uri, ["sst2", "rte", "mnli", "cola"]) == (["rte", "cola"], ["sst2", "mnli"])
    assert len(load_task(uri, "rte").train) == len(load_task(uri, "cola").train) == 6


@pytest.mark.skipif("DISTILRAY_GLUE_DIR" not in os.environ, reason="DISTILRAY_GLUE_DIR is not set")
@pytest.mark.parametrize("name", GLUE_TASKS)
def test_the_official_files_are_accepted(name):
    glue_dir = os.environ["DISTILRAY_GLUE_DIR"]
    if name not in find_tasks(glue_dir, [name])[0]:
        pytest.skip(f"{name} is not in {glue_dir}")
    data = load_task(glue_dir, name, with_test=True)
    for split, rows in {"train": data.train, **data.dev, **data.test}.items():
        assert len(rows) in TASKS[name].row_counts[split]
