import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.errors import InputError
from distilray.pretraining_data.shards import Shard, ShardSet, write_shard
from distilray.runtime import storage
from distilray.schemas import EXAMPLES
from tests.distilray.tiny_line import encoded_table


@pytest.fixture
def copied(shards_dir, tmp_path):
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(shards_dir, tmp_path / "copy"))


def train_file(folder):
    return folder / "shards/train-1.arrow"


def change_manifest(folder, change):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest["content"])
    file.write_text(json.dumps(manifest))


def describe_anew(folder, file):
    """Makes the manifest agree with a file that was changed, so that only its content can be at fault."""
    entry = {"bytes": file.stat().st_size, "sha256": storage.sha256(str(file))}
    change_manifest(folder, lambda content: content["outputs"][f"shards/{file.name}"].update(entry))


def flip_byte(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(bytes(data))


def test_a_shard_gives_back_every_value_that_was_written(tokenizer_dir, tmp_path):
    table = encoded_table(tokenizer_dir)
    entry = write_shard(table, str(tmp_path / "one.arrow"))
    read = pa.ipc.open_file(str(tmp_path / "one.arrow")).read_all()
    assert read.schema.equals(EXAMPLES, check_metadata=True)
    assert read.to_pylist() == table.to_pylist()
    shard = Shard.open(str(tmp_path / "one.arrow"))
    for name in ("input_ids", "mask_positions", "mask_labels"):
        column = getattr(shard, name)
        assert [column.row(row).tolist() for row in range(len(table))] == table.column(name).to_pylist()
        assert column.lengths.tolist() == [len(row) for row in table.column(name).to_pylist()]
    assert shard.segment_b_start.tolist() == table.column("segment_b_start").to_pylist()
    assert entry["rows"] == len(table)
    assert entry["tokens"] == sum(len(row) for row in table.column("input_ids").to_pylist())
    assert entry["bytes"] == (tmp_path / "one.arrow").stat().st_size
    assert entry["sha256"] == storage.sha256(str(tmp_path / "one.arrow"))


def test_a_slice_of_a_table_is_written_without_the_rows_around_it(tokenizer_dir, tmp_path):
    table = encoded_table(tokenizer_dir)
    entry = write_shard(table.slice(7, 5), str(tmp_path / "part.arrow"))
    whole = write_shard(table, str(tmp_path / "whole.arrow"))
    assert pa.ipc.open_file(str(tmp_path / "part.arrow")).read_all().to_pylist() == table.slice(7, 5).to_pylist()
    shard = Shard.open(str(tmp_path / "part.arrow"))
    expected = table.slice(7, 5).column("input_ids").to_pylist()
    assert [shard.input_ids.row(row).tolist() for row in range(5)] == expected
    assert entry["bytes"] < whole["bytes"] / 2


def test_the_tokens_of_a_slice_are_counted_without_the_rows_around_it(tokenizer_dir, tmp_path):
    part = encoded_table(tokenizer_dir).slice(7, 5)
    entry = write_shard(part, str(tmp_path / "part.arrow"))
    assert entry["tokens"] == sum(len(row) for row in part.column("input_ids").to_pylist())


def test_rows_are_numbered_through_all_shards(shards_dir):
    shards = ShardSet(shards_dir, "train")
    files = sorted((Path(shards_dir) / "shards").glob("train-*"))
    expected = [row for file in files for row in pa.ipc.open_file(str(file)).read_all().to_pylist()]
    assert len(files) == 3
    assert len(shards) == len(expected)
    order = np.random.default_rng(0).permutation(len(shards))
    for row, (shard, inside) in zip(order, shards.locate(order), strict=True):
        assert shard.input_ids.row(inside).tolist() == expected[row]["input_ids"]
        assert shard.segment_b_start[inside] == expected[row]["segment_b_start"]
        assert shard.mask_labels.row(inside).tolist() == expected[row]["mask_labels"]
        assert shards.lengths[row] == len(expected[row]["input_ids"])
        assert shards.mask_counts[row] == len(expected[row]["mask_labels"])


def test_an_unchanged_copy_is_accepted(shards_dir, copied):
    known = ShardSet(shards_dir, "train").tokenizer_hash
    assert len(ShardSet(str(copied), "train", tokenizer_hash=known, verify=True)) > 0


def test_a_changed_byte_is_found_by_the_sha256(copied):
    flip_byte(train_file(copied), 2000)
    ShardSet(str(copied), "train")
    with pytest.raises(InputError, match=r"train-1\.arrow: .*sha256"):
        ShardSet(str(copied), "train", verify=True)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_shard_of_another_size_is_refused_by_name(copied, size):
    file = train_file(copied)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match=r"train-1\.arrow: \d+ bytes where"):
        ShardSet(str(copied), "train")


def test_a_missing_shard_is_refused_by_name(copied):
    train_file(copied).unlink()
    with pytest.raises(InputError, match=r"train-1\.arrow"):
        ShardSet(str(copied), "train")


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"\0" * 4096])
def test_a_file_that_is_no_arrow_file_is_refused_by_name(copied, content):
    train_file(copied).write_bytes(content)
    describe_anew(copied, train_file(copied))
    with pytest.raises(InputError, match=r"train-1\.arrow: not an Arrow file"):
        ShardSet(str(copied), "train", verify=True)


def test_a_file_cut_inside_is_refused_by_name(copied):
    file = train_file(copied)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    describe_anew(copied, file)
    with pytest.raises(InputError, match=r"train-1\.arrow: not an Arrow file"):
        ShardSet(str(copied), "train", verify=True)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (EXAMPLES.with_metadata({b"distilray.schema": b"examples/2"}), "schema 'examples/2'"),
        (EXAMPLES.remove_metadata(), "schema 'none'"),
        (EXAMPLES.remove(EXAMPLES.get_field_index("trimmed")), "columns differ"),
    ],
)
def test_a_shard_of_another_schema_is_refused_by_name(copied, tokenizer_dir, schema, reason):
    file = train_file(copied)
    table = encoded_table(tokenizer_dir).select(schema.names).cast(schema).combine_chunks()
    with pa.ipc.new_file(str(file), schema) as writer:
        writer.write_table(table)
    describe_anew(copied, file)
    with pytest.raises(InputError, match=rf"train-1\.arrow: .*{reason}"):
        ShardSet(str(copied), "train")


def test_shards_of_another_tokenizer_are_refused_by_folder(copied):
    with pytest.raises(InputError, match=r"copy: encoded with tokenizer .*the model has 000000000000"):
        ShardSet(str(copied), "train", tokenizer_hash="0" * 64)


def test_a_split_without_rows_is_refused_by_folder(copied):
    def without_heldout(content):
        content["outputs"] = {name: e for name, e in content["outputs"].items() if e["split"] == "train"}

    change_manifest(copied, without_heldout)
    with pytest.raises(InputError, match=r"copy: no rows in split 'heldout'"):
        ShardSet(str(copied), "heldout")


def test_a_run_of_another_job_is_refused_by_folder(copied):
    change_manifest(copied, lambda content: content.update(job="build_corpus"))
    with pytest.raises(InputError, match=r"copy: written by build_corpus, not by encode_corpus"):
        ShardSet(str(copied), "train")


def test_an_incomplete_run_is_refused_by_folder(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"copy: no manifest\.json"):
        ShardSet(str(copied), "train")
