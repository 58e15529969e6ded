"""Layouts and errors of the Parquet files; the content of each task is tested in test_files.py."""

import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.errors import InputError
from distilray.finetuning.hub_files import read_hub_split
from distilray.finetuning.tasks import TASKS
from tests.tiny.glue import hub_table, write_hub

ANY = {name: replace(task, row_counts={}) for name, task in TASKS.items()}
DEV, TRAIN = "validation-00000-of-00001.parquet", "train-00000-of-00001.parquet"


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_shards_are_read_in_order(tmp_path):
    write_hub(tmp_path, "qqp", {"train": 25}, shards=12)
    rows = read_hub_split(str(tmp_path / "qqp"), ANY["qqp"], "train")
    assert rows.first == [f"first {row}" for row in range(25)]
    assert rows.labels.tolist() == [row % 2 for row in range(25)]


@pytest.mark.parametrize(
    "layout",
    [
        "{split}/{part:04}.parquet",
        "data/{split}/{part:04}.parquet",
        "data/{split}-{part:05}-of-{parts:05}.parquet",
        "{split}-{part:05}-of-{parts:05}-0123456789abcdef.parquet",
    ],
)
def test_every_layout_of_the_hub_is_read(tmp_path, layout):
    counts = {"train": 12, "dev_matched": 7, "dev_mismatched": 8, "test_matched": 9, "test_mismatched": 10}
    write_hub(tmp_path, "mnli", counts, shards=3)
    for file in (tmp_path / "mnli").iterdir():
        split, part, _, parts = file.stem.rsplit("-", 3)
        target = tmp_path / "other" / layout.format(split=split, part=int(part), parts=int(parts))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for split, count in counts.items():
        rows = read_hub_split(str(tmp_path / "other"), ANY["mnli"], split)
        assert rows.second == [f"second {row}" for row in range(count)]
        if split.startswith("test"):
            assert rows.labels is None
        else:
            assert rows.labels.tolist() == [row % 3 for row in range(count)]


def test_test_rows_must_be_in_order_across_shards(tmp_path):
    for part, start in enumerate((0, 4)):
        pq.write_table(hub_table("rte", "test", 4, start), tmp_path / f"test-{part:05}-of-00002.parquet")
    assert len(read_hub_split(str(tmp_path), ANY["rte"], "test")) == 8
    pq.write_table(hub_table("rte", "test", 4, 5), tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(InputError, match=r"test-00001-of-00002\.parquet: idx 5 in row 1 instead of 4"):
        read_hub_split(str(tmp_path), ANY["rte"], "test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"train-00000-of-00001\.parquet: no such file, and no train/0000\.parquet"),
        (["train-00001-of-00002"], "the shards of train are incomplete .*train-00001-of-00002"),
        (["train-00000-of-00003", "train-00002-of-00003"], "the shards of train are incomplete"),
        (["train/0000", "train/0002"], "the shards of train are incomplete"),
        (["train-00000-of-00002", "train-00001-of-00003", "train-00002-of-00003"], "from different releases"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], "from different releases"),
        (["train-00000-of-00001", "train/0000"], r"train exists in two layouts .*train/0000\.parquet.*; keep one"),
    ],
)
def test_incomplete_or_ambiguous_shards_are_refused(tmp_path, names, message):
    for name in names:
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(hub_table("rte", "train", 3), path)
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        read_hub_split(str(tmp_path), ANY["rte"], "train")


@pytest.mark.parametrize(
    ("name", "column", "values", "message"),
    [
        ("rte", "sentence2", None, "columns 'sentence1, label, idx', expected sentence1, sent"),
        ("rte", "label", [0, 1, 2, 0, 1, 0, 1], "label 2 in row 3 is not from 0 to 1"),
        ("rte", "label", [0, 1, 0, -1, 1, 0, 1], "label -1 in row 4 is not from 0"),
        ("rte", "label", [0.0] * 7, "column label is double"),
        ("rte", "label", ["entailment"] * 7, "column label is string"),
        ("rte", "label", [None, *[0] * 6], "column label has 1 empty rows"),
        ("rte", "sentence1", ["a", *[None] * 6], "column sentence1 has 6 empty"),
        ("rte", "sentence2", [1] * 7, "column sentence2 is int64, not text"),
        ("stsb", "label", [5.5] * 7, "label 5.5 in row 1 .* 0 to 5"),
        ("stsb", "label", [float("nan")] * 7, "label nan in row 1"),
    ],
)
def test_a_file_in_another_format_is_refused(tmp_path, name, column, values, message):
    table = hub_table(name, "dev", 7)
    pq.write_table(with_column(table, column, values) if values else table.drop_columns(column), tmp_path / DEV)
    with pytest.raises(InputError, match=rf"^[^\n]*{DEV}: {message}[^\n]*; get it from the hub"):
        read_hub_split(str(tmp_path), ANY[name], "dev")


def test_scores_between_0_and_1_are_refused(tmp_path):
    pq.write_table(with_column(hub_table("stsb", "dev", 3), "label", [0.0, 0.5, 1.0]), tmp_path / DEV)
    with pytest.raises(InputError, match=r"no score above 1.* multiply the scores by 5"):
        read_hub_split(str(tmp_path), ANY["stsb"], "dev")


def test_a_torn_file_is_refused(tmp_path):
    (tmp_path / TRAIN).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=rf"^[^\n]*{TRAIN}: not a complete Parquet file [^\n]*$"):
        read_hub_split(str(tmp_path), ANY["rte"], "train")
