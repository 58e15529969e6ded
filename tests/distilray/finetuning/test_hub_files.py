import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config.glue import GLUE_TASKS, TaskName
from distilray.errors import InputError
from distilray.finetuning.hub_files import read_hub_split
from distilray.finetuning.tasks import TASKS
from distilray.finetuning.tsv_files import read_tsv_split
from tests.tiny.glue import FOLDERS, OFFICIAL_ROWS, hub_table, small_rows, write_hub, write_raw

ANY = {name: replace(task, row_counts={}) for name, task in TASKS.items()}


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_both_layouts_give_the_same_rows(tmp_path: Path, name: TaskName) -> None:
    task, rows = ANY[name], small_rows(name)
    write_hub(tmp_path / "hub", name, rows)
    write_raw(tmp_path / "raw", name, rows)
    for split in ("train", *task.dev, *(test for test in task.test if test != "ax")):
        hub = read_hub_split(str(tmp_path / "hub" / name), task, split)
        raw, _ = read_tsv_split(str(tmp_path / "raw" / FOLDERS[name]), task, split)
        assert (hub.first, hub.second) == (raw.first, raw.second)
        assert len(hub) == rows[split]
        if split in task.test:
            assert hub.labels is None
            continue
        assert hub.labels is not None
        assert raw.labels is not None
        assert hub.labels.dtype == raw.labels.dtype
        assert np.array_equal(hub.labels, raw.labels)


def test_the_diagnostic_set_is_the_test_split_of_its_folder(tmp_path: Path) -> None:
    write_hub(tmp_path, "mnli", {"ax": 1_104})
    found = read_hub_split(str(tmp_path / "ax"), TASKS["mnli"], "ax")
    assert (len(found), found.labels) == (1_104, None)


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    write_hub(tmp_path, "qqp", {"train": 25}, shards=12)
    found = read_hub_split(str(tmp_path / "qqp"), ANY["qqp"], "train")
    assert found.first == [f"first {row}" for row in range(25)]
    assert found.labels is not None
    assert found.labels.tolist() == [row % 2 for row in range(25)]


LAYOUTS = {
    "converted": "{split}/{part:04}.parquet",
    "data": "data/{split}-{part:05}-of-{parts:05}.parquet",
    "hashed": "{split}-{part:05}-of-{parts:05}-0123456789abcdef.parquet",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("name", ["mnli", "rte"])
def test_every_layout_of_the_hub_is_read(tmp_path: Path, name: TaskName, layout: str) -> None:
    write_hub(tmp_path, name, small_rows(name), shards=3)
    for file in (tmp_path / name).iterdir():
        split, part, _, parts = file.stem.rsplit("-", 3)
        target = tmp_path / "other" / layout.format(split=split, part=int(part), parts=int(parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for split in ("train", *ANY[name].dev, *(test for test in ANY[name].test if test != "ax")):
        plain, other = (read_hub_split(str(tmp_path / folder), ANY[name], split) for folder in (name, "other"))
        assert (other.first, other.second) == (plain.first, plain.second)
        assert (other.labels is None) == (split in ANY[name].test)
        assert np.array_equal(other.labels, plain.labels)


def test_a_split_in_two_layouts_is_refused(tmp_path: Path) -> None:
    write_hub(tmp_path, "rte", {"train": 4})
    (tmp_path / "rte" / "train").mkdir()
    pq.write_table(hub_table("rte", "train", 4), tmp_path / "rte" / "train" / "0000.parquet")
    with pytest.raises(InputError, match=r"train exists in two layouts .*train/0000\.parquet.*; keep one"):
        read_hub_split(str(tmp_path / "rte"), ANY["rte"], "train")


def test_scores_that_end_at_1_are_refused(tmp_path: Path) -> None:
    table = _set(hub_table("stsb", "dev", 3), "label", pa.array([0.0, 0.5, 1.0], pa.float32()))
    pq.write_table(table, tmp_path / "validation-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"no score above 1.* multiply the scores by 5"):
        read_hub_split(str(tmp_path), ANY["stsb"], "dev")


def test_the_order_of_a_test_set_is_checked_over_its_shards(tmp_path: Path) -> None:
    for part, start in enumerate((0, 4)):
        pq.write_table(hub_table("rte", "test", 4, start), tmp_path / f"test-{part:05}-of-00002.parquet")
    assert len(read_hub_split(str(tmp_path), ANY["rte"], "test")) == 8
    pq.write_table(hub_table("rte", "test", 4, 5), tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(InputError, match=r"test-00001-of-00002\.parquet: idx 5 in row 1 instead of 4"):
        read_hub_split(str(tmp_path), ANY["rte"], "test")


def test_a_missing_shard_is_reported(tmp_path: Path) -> None:
    write_hub(tmp_path, "mnli", {"train": 9}, shards=3)
    (tmp_path / "mnli" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match=r"mnli: the shards of train are incomplete .*train-00002-of-00003"):
        read_hub_split(str(tmp_path / "mnli"), ANY["mnli"], "train")


@pytest.mark.parametrize("names", [("0-of-2", "1-of-3", "2-of-3"), ("0-of-1", "0-of-2", "1-of-2")])
def test_shards_of_two_releases_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "mnli").mkdir()
    for name in names:
        number, _, total = name.partition("-of-")
        path = tmp_path / "mnli" / f"train-{int(number):05}-of-{int(total):05}.parquet"
        pq.write_table(hub_table("mnli", "train", 3), path)
    with pytest.raises(InputError, match=r"the shards of train are incomplete or from different releases"):
        read_hub_split(str(tmp_path / "mnli"), ANY["mnli"], "train")


@pytest.mark.parametrize("name", ["cola", "mrpc", "wnli"])
def test_numbers_of_rows_are_checked(tmp_path: Path, name: TaskName) -> None:
    task = TASKS[name]
    write_hub(tmp_path, name, OFFICIAL_ROWS[name])
    for split in OFFICIAL_ROWS[name]:
        assert len(read_hub_split(str(tmp_path / name), task, split)) == OFFICIAL_ROWS[name][split]
    write_hub(tmp_path, name, {"dev": 70})
    with pytest.raises(InputError, match=r"validation-\*\.parquet: 70 rows, but"):
        read_hub_split(str(tmp_path / name), task, "dev")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "rte",
            lambda table: table.drop_columns("sentence2"),
            "columns 'sentence1, label, idx', expected sentence1, sent",
        ),
        (
            "rte",
            lambda table: _set(table, "label", pa.array([0, 1, 2, 0, 1, 0, 1])),
            "label 2 in row 3 is not from 0 to 1",
        ),
        (
            "rte",
            lambda table: _set(table, "label", pa.array([0, 1, 0, -1, 1, 0, 1])),
            "label -1 in row 4 is not from 0",
        ),
        ("rte", lambda table: _set(table, "label", pa.array([0.0] * 7)), "column label is double"),
        ("rte", lambda table: _set(table, "label", pa.array(["entailment"] * 7)), "column label is string"),
        ("rte", lambda table: _set(table, "label", pa.array([None, *[0] * 6])), "column label has 1 empty rows"),
        ("rte", lambda table: _set(table, "sentence1", pa.array(["a", *[None] * 6])), "column sentence1 has 6 empty"),
        ("rte", lambda table: _set(table, "sentence2", pa.array([1] * 7)), "column sentence2 is int64, not text"),
        ("stsb", lambda table: _set(table, "label", pa.array([5.5] * 7, pa.float32())), "label 5.5 in row 1 .* 0 to 5"),
        ("stsb", lambda table: _set(table, "label", pa.array([float("nan")] * 7)), "label nan in row 1"),
    ],
)
def test_a_file_that_is_not_the_hubs_is_refused(
    tmp_path: Path, name: TaskName, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    pq.write_table(change(hub_table(name, "dev", 7)), tmp_path / "validation-00000-of-00001.parquet")
    with pytest.raises(
        InputError, match=rf"^[^\n]*validation-00000-of-00001\.parquet: {message}[^\n]*; get it from the hub"
    ):
        read_hub_split(str(tmp_path), ANY[name], "dev")


def _set(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def test_a_broken_or_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train-00000-of-00001\.parquet: no such file"):
        read_hub_split(str(tmp_path), ANY["rte"], "train")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"^[^\n]*train-00000-of-00001\.parquet: not a complete Parquet file [^\n]*$"):
        read_hub_split(str(tmp_path), ANY["rte"], "train")
