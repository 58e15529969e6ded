import os
from dataclasses import replace
from pathlib import Path

import pytest

from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.errors import InputError
from distilray.finetuning.files import find_tasks, input_files, load_task
from distilray.finetuning.tasks import TASKS
from distilray.runtime.run_folder import describe_input
from tests.tiny.glue import FOLDERS, OFFICIAL_ROWS, raw_lines, small_rows, write_glue, write_hub, write_lines, write_raw

LAYOUTS = ["raw", "hub"]
AX_PLACES = [
    "AX/AX.tsv",
    "AX/test.tsv",
    "ax/AX.tsv",
    "diagnostic/diagnostic.tsv",
    "MNLI/diagnostic.tsv",
    "diagnostic.tsv",
]


@pytest.fixture
def any_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept any number of rows."""
    for name, task in TASKS.items():
        monkeypatch.setitem(TASKS, name, replace(task, row_counts={}))  # type: ignore[arg-type]


@pytest.mark.usefixtures("any_rows")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_tasks_of_a_folder_are_found_and_read(tmp_path: Path, layout: str) -> None:
    glue_dir = write_glue(tmp_path, layout=layout)
    assert find_tasks(glue_dir, GLUE_TASKS) == (list(GLUE_TASKS), [])
    for name in GLUE_TASKS:
        rows, data = small_rows(name), load_task(glue_dir, name, with_test=True)
        assert data.task.name == name
        assert {split: len(part) for split, part in {"train": data.train, **data.dev, **data.test}.items()} == rows
        assert (tuple(data.dev), tuple(data.test)) == (data.task.dev, data.task.test)
        assert data.dropped == {}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["cola", "wnli"])
def test_official_numbers_of_rows_are_taken(tmp_path: Path, name: TaskName, layout: str) -> None:
    data = load_task(write_glue(tmp_path, [name], layout=layout, official=True), name, with_test=True)
    assert len(data.train) == OFFICIAL_ROWS[name]["train"]


@pytest.mark.usefixtures("any_rows")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_test_file_is_opened_only_when_asked_for(tmp_path: Path, layout: str) -> None:
    glue_dir = write_glue(tmp_path, layout=layout)
    tests = [path for path in tmp_path.rglob("*") if path.name.startswith(("test", "AX."))]
    assert len(tests) == len(GLUE_TASKS) + 2
    for path in tests:
        path.write_bytes(b"broken")
    for name in GLUE_TASKS:
        assert load_task(glue_dir, name).test == {}
        with pytest.raises(InputError):
            load_task(glue_dir, name, with_test=True)


def test_missing_tasks_are_reported_in_the_requested_order(tmp_path: Path) -> None:
    glue_dir = write_glue(tmp_path, ["rte", "cola"])
    assert find_tasks(glue_dir, ["sst2", "rte", "mnli", "cola"]) == (["rte", "cola"], ["sst2", "mnli"])
    with pytest.raises(InputError, match=r"SST-2: no such folder; put the files of SST-2 there"):
        load_task(glue_dir, "sst2")


@pytest.mark.usefixtures("any_rows")
@pytest.mark.parametrize(("name", "folder"), [("sst2", "sst-2"), ("sst2", "SST2"), ("stsb", "STSB"), ("cola", "COLA")])
def test_folder_names_are_taken_in_any_case(tmp_path: Path, name: TaskName, folder: str) -> None:
    write_raw(tmp_path, name, small_rows(name))
    (tmp_path / FOLDERS[name]).rename(tmp_path / folder)
    assert find_tasks(str(tmp_path), [name]) == ([name], [])
    assert len(load_task(str(tmp_path), name).train) == small_rows(name)["train"]


def test_two_folders_of_a_task_are_refused(tmp_path: Path) -> None:
    for name in ("SST-2", "sst2"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="SST-2 and sst2 are both folders of SST-2; keep one"):
        find_tasks(str(tmp_path), ["cola"])


def test_two_layouts_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_raw(tmp_path, "rte", small_rows("rte"))
    (tmp_path / "RTE").rename(tmp_path / "rte")
    write_hub(tmp_path, "rte", small_rows("rte"))
    with pytest.raises(InputError, match=r"rte: contains dev\.tsv and test-00000-of-00001\.parquet; keep"):
        load_task(str(tmp_path), "rte")


def test_a_folder_without_files_is_there_but_refused(tmp_path: Path) -> None:
    (tmp_path / "RTE" / "original").mkdir(parents=True)
    assert find_tasks(str(tmp_path), ["rte"]) == (["rte"], [])
    with pytest.raises(InputError, match="RTE: no TSV or Parquet files"):
        load_task(str(tmp_path), "rte")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_rows_are_accepted_on_request_and_reported(tmp_path: Path, layout: str) -> None:
    glue_dir = write_glue(tmp_path, ["wnli"], layout=layout, official=True)
    (write_raw if layout == "raw" else write_hub)(tmp_path, "wnli", {"train": 20})
    with pytest.raises(InputError, match=r"20 rows, but WNLI has 635; .*allow_other_row_counts=true"):
        load_task(glue_dir, "wnli")
    data = load_task(glue_dir, "wnli", with_test=True, any_row_counts=True)
    assert (len(data.train), list(data.unofficial_splits)) == (20, ["train 20 (635)"])


def test_a_test_set_has_the_rows_of_the_leaderboard_in_any_case(tmp_path: Path) -> None:
    glue_dir = write_glue(tmp_path, ["wnli"], official=True)
    write_raw(tmp_path, "wnli", {"test": 20})
    assert list(load_task(glue_dir, "wnli", any_row_counts=True).unofficial_splits) == []
    with pytest.raises(InputError, match=r"20 rows, but WNLI has 146; get the official file again$"):
        load_task(glue_dir, "wnli", with_test=True, any_row_counts=True)


def test_the_releases_of_qqp_are_official_by_whole_rows_or_by_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "qqp", replace(TASKS["qqp"], row_counts={"train": (4, 7), "dev": (3,)}))  # type: ignore[arg-type]
    write_lines(tmp_path / "QQP" / "train.tsv", [*raw_lines("qqp", "train", 6), "0\t1\ttorn"])
    write_lines(tmp_path / "QQP" / "dev.tsv", raw_lines("qqp", "dev", 5))
    assert list(load_task(str(tmp_path), "qqp", any_row_counts=True).unofficial_splits) == ["dev 5 (3)"]


def test_remarks_name_the_split(tmp_path: Path) -> None:
    write_glue(tmp_path, ["wnli"], official=True)
    text = (tmp_path / "WNLI" / "dev.tsv").read_text().replace("first 3\t", '"a ""quote"""\t')
    (tmp_path / "WNLI" / "dev.tsv").write_text(text)
    assert list(load_task(str(tmp_path), "wnli").remarks) == ["dev: quotes of a spreadsheet removed"]


def test_a_missing_dev_file_is_named(tmp_path: Path) -> None:
    glue_dir = write_glue(tmp_path, ["wnli"], official=True)
    (tmp_path / "WNLI" / "dev.tsv").unlink()
    with pytest.raises(InputError, match=r"^[^\n]*WNLI/dev\.tsv: no such file; [^\n]*$"):
        load_task(glue_dir, "wnli")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"glue_dir: .* is not a folder"):
        find_tasks(str(tmp_path / "absent"), ["rte"])


@pytest.mark.usefixtures("any_rows")
@pytest.mark.parametrize("place", AX_PLACES)
def test_the_diagnostic_set_is_found_where_downloads_put_it(tmp_path: Path, place: str) -> None:
    rows = {split: count for split, count in small_rows("mnli").items() if split != "ax"}
    write_raw(tmp_path, "mnli", rows)
    assert tuple(load_task(str(tmp_path), "mnli", with_test=True).test) == ("test_matched", "test_mismatched")
    assert list(input_files(str(tmp_path), ["mnli"])) == ["glue_mnli"]
    write_lines(tmp_path / place, raw_lines("mnli", "ax", 4))
    assert len(load_task(str(tmp_path), "mnli", with_test=True).test["ax"]) == 4
    assert "glue_ax" in input_files(str(tmp_path), ["mnli"])


@pytest.mark.usefixtures("any_rows")
def test_a_folder_of_the_diagnostic_set_without_it_is_refused(tmp_path: Path) -> None:
    write_raw(tmp_path, "mnli", small_rows("mnli"))
    (tmp_path / "AX" / "AX.tsv").rename(tmp_path / "AX" / "other.tsv")
    with pytest.raises(InputError, match=r"AX/AX\.tsv: no such file"):
        load_task(str(tmp_path), "mnli", with_test=True)


@pytest.mark.usefixtures("any_rows")
def test_dropped_rows_are_counted_over_train_and_dev(tmp_path: Path) -> None:
    write_raw(tmp_path, "qqp", small_rows("qqp"))
    for split in ("train", "dev"):
        write_lines(tmp_path / "QQP" / f"{split}.tsv", [*raw_lines("qqp", split, 3), "0\t1\ttorn"])
    assert load_task(str(tmp_path), "qqp").dropped == {"torn rows": 2}


def test_inputs_are_the_folders_that_are_there(tmp_path: Path) -> None:
    glue_dir = write_glue(tmp_path, ["cola", "sst2", "mnli"])
    found = input_files(glue_dir, ["mnli", "cola", "rte"])
    assert found == {
        "glue_mnli": str(tmp_path / "MNLI"),
        "glue_cola": str(tmp_path / "CoLA"),
        "glue_ax": str(tmp_path / "AX"),
    }
    assert all(describe_input(uri)["bytes"] > 0 for uri in found.values())
    assert list(input_files(glue_dir, ["cola"])) == ["glue_cola"]


@pytest.mark.usefixtures("any_rows")
def test_a_folder_may_be_a_uri(tmp_path: Path) -> None:
    write_glue(tmp_path / "my glue", ["rte"])
    write_glue(tmp_path / "my glue", ["cola"], layout="hub")
    uri = (tmp_path / "my glue").as_uri()
    assert find_tasks(uri, ["rte", "cola", "wnli"]) == (["rte", "cola"], ["wnli"])
    assert len(load_task(uri, "rte").train) == len(load_task(uri, "cola").train) == 6


@pytest.mark.usefixtures("any_rows")
def test_the_made_up_task_is_read_like_rte(tmp_path: Path) -> None:
    lines = ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tfollows", "1\tc\td\tnot_follows"]
    for split in ("train", "dev"):
        write_lines(tmp_path / "follows" / f"{split}.tsv", lines)
    data = load_task(str(tmp_path), "follows", with_test=True)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0, 1]
    assert data.test == {}


@pytest.mark.skipif("DISTILRAY_GLUE_DIR" not in os.environ, reason="DISTILRAY_GLUE_DIR names no folder of GLUE")
@pytest.mark.parametrize("name", GLUE_TASKS)
def test_the_real_files_are_taken(name: TaskName) -> None:
    glue_dir = os.environ["DISTILRAY_GLUE_DIR"]
    if name not in find_tasks(glue_dir, [name])[0]:
        pytest.skip(f"{name} is not in {glue_dir}")
    data = load_task(glue_dir, name, with_test=True)
    for split, part in {"train": data.train, **data.dev, **data.test}.items():
        assert len(part) in TASKS[name].row_counts[split]
