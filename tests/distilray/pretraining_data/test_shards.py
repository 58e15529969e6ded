import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.errors import InputError
from distilray.pretraining_data import shards as shards_module
from distilray.pretraining_data.shards import Shard, ShardSet, write_shard
from distilray.runtime import storage
from distilray.schemas import EXAMPLES
from tests.tiny.shards import planned, write_shards


@pytest.fixture
def copied(shards_dir, tmp_path):
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(shards_dir, tmp_path / "copy"))


@pytest.fixture(scope="module")
def table(shards_dir):
    return pa.ipc.open_file(str(train_file(Path(shards_dir)))).read_all()


def train_file(folder):
    return sorted((folder / "shards").glob("train-*"))[1]


def change_manifest(folder, change):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest["content"])
    file.write_text(json.dumps(manifest))


def describe_anew(folder, file):
    """Update the manifest for a changed file, so that only its content can be invalid."""
    entry = {"bytes": file.stat().st_size, "sha256": storage.sha256(str(file))}
    change_manifest(folder, lambda content: content["outputs"][f"shards/{file.name}"].update(entry))


def read_all(shards):
    return shards.lengths(np.arange(len(shards)))


def flip_byte(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(bytes(data))


def test_a_shard_round_trips_every_value(table, tmp_path):
    entry = write_shard(table, str(tmp_path / "one.arrow"))
    read = pa.ipc.open_file(str(tmp_path / "one.arrow")).read_all()
    assert read.schema.equals(EXAMPLES, check_metadata=True)
    assert read.to_pylist() == table.to_pylist()
    shard = Shard.open(str(tmp_path / "one.arrow"), "one")
    for name in ("input_ids", "mask_positions", "mask_labels"):
        column = getattr(shard, name)
        assert [column.row(row).tolist() for row in range(len(table))] == table.column(name).to_pylist()
        assert column.lengths(np.arange(len(table))).tolist() == [len(row) for row in table.column(name).to_pylist()]
    for name in ("segment_b_start", "example_id"):
        assert getattr(shard, name).tolist() == table.column(name).to_pylist()
    assert entry["rows"] == len(table)
    assert entry["tokens"] == sum(len(row) for row in table.column("input_ids").to_pylist())
    assert entry["bytes"] == (tmp_path / "one.arrow").stat().st_size
    assert entry["sha256"] == storage.sha256(str(tmp_path / "one.arrow"))


def test_a_slice_of_a_table_is_written_without_the_rows_around_it(table, tmp_path):
    entry = write_shard(table.slice(7, 5), str(tmp_path / "part.arrow"))
    whole = write_shard(table, str(tmp_path / "whole.arrow"))
    assert pa.ipc.open_file(str(tmp_path / "part.arrow")).read_all().to_pylist() == table.slice(7, 5).to_pylist()
    shard = Shard.open(str(tmp_path / "part.arrow"), "part")
    expected = table.slice(7, 5).column("input_ids").to_pylist()
    assert [shard.input_ids.row(row).tolist() for row in range(5)] == expected
    assert entry["bytes"] < whole["bytes"] / 2


def test_the_tokens_of_a_slice_are_counted_without_the_rows_around_it(table, tmp_path):
    part = table.slice(7, 5)
    entry = write_shard(part, str(tmp_path / "part.arrow"))
    assert entry["tokens"] == sum(len(row) for row in part.column("input_ids").to_pylist())


def test_rows_are_numbered_through_all_shards(shards_dir):
    shards = ShardSet(shards_dir, "train")
    files = sorted((Path(shards_dir) / "shards").glob("train-*"))
    expected = [row for file in files for row in pa.ipc.open_file(str(file)).read_all().to_pylist()]
    assert len(files) > 1
    assert len(shards) == len(expected)
    order = np.random.default_rng(0).permutation(len(shards))
    for row, (shard, inside) in zip(order, shards.locate(order), strict=True):
        assert shard.input_ids.row(inside).tolist() == expected[row]["input_ids"]
        assert shard.segment_b_start[inside] == expected[row]["segment_b_start"]
        assert shard.mask_labels.row(inside).tolist() == expected[row]["mask_labels"]
        assert shard.example_id[inside] == expected[row]["example_id"]
    assert shards.lengths(order).tolist() == [len(expected[row]["input_ids"]) for row in order]
    counts = shards.mask_counts(order, np.zeros_like(order))
    assert counts.tolist() == [len(expected[row]["mask_labels"]) for row in order]
    assert shards.tokens == shards.lengths(order).sum()
    assert shards.shard_rows == tuple(len(pa.ipc.open_file(str(file)).read_all()) for file in files)


def test_an_unchanged_copy_is_accepted(shards_dir, copied):
    known = ShardSet(shards_dir, "train").tokenizer_hash
    assert len(ShardSet(str(copied), "train", tokenizer_hash=known, verify=True)) > 0


def test_a_changed_byte_is_detected(copied):
    flip_byte(train_file(copied), 2000)
    ShardSet(str(copied), "train")
    with pytest.raises(InputError, match=r"train-[0-9a-f]+\.arrow: .*sha256"):
        ShardSet(str(copied), "train", verify=True)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_shard_of_another_size_is_rejected_by_name(copied, size):
    file = train_file(copied)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match=r"train-[0-9a-f]+\.arrow: \d+ bytes, but the manifest records"):
        ShardSet(str(copied), "train")


def test_a_missing_shard_is_refused_by_name(copied):
    train_file(copied).unlink()
    with pytest.raises(InputError, match=r"train-[0-9a-f]+\.arrow"):
        ShardSet(str(copied), "train")


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"\0" * 4096])
def test_a_file_that_is_not_arrow_is_rejected_by_name(copied, content):
    train_file(copied).write_bytes(content)
    describe_anew(copied, train_file(copied))
    with pytest.raises(InputError, match=r"train-[0-9a-f]+\.arrow: not a complete Arrow file"):
        read_all(ShardSet(str(copied), "train", verify=True))


def test_a_truncated_file_is_rejected_by_name(copied):
    file = train_file(copied)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    describe_anew(copied, file)
    with pytest.raises(InputError, match=r"train-[0-9a-f]+\.arrow: not a complete Arrow file"):
        read_all(ShardSet(str(copied), "train", verify=True))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (EXAMPLES.with_metadata({b"distilray.schema": b"examples/1"}), "schema 'examples/1'"),
        (EXAMPLES.remove_metadata(), "schema 'none'"),
        (EXAMPLES.remove(EXAMPLES.get_field_index("trimmed")), "columns differ"),
    ],
)
def test_a_shard_of_another_schema_is_refused_by_name(copied, table, schema, reason):
    file = train_file(copied)
    with pa.ipc.new_file(str(file), schema) as writer:
        writer.write_table(table.select(schema.names).cast(schema).combine_chunks())
    describe_anew(copied, file)
    with pytest.raises(InputError, match=rf"train-[0-9a-f]+\.arrow: .*{reason}"):
        read_all(ShardSet(str(copied), "train"))


def test_shards_of_another_tokenizer_are_refused_by_folder(copied):
    with pytest.raises(InputError, match=r"copy: encoded with tokenizer .*the model has 000000000000"):
        ShardSet(str(copied), "train", tokenizer_hash="0" * 64)


def test_a_split_without_rows_is_refused_by_folder(copied):
    def without_heldout(content):
        content["outputs"] = {name: e for name, e in content["outputs"].items() if e.get("split") == "train"}

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


def test_no_more_shards_than_allowed_are_open_at_once(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(shards_module, "_MAX_OPEN_SHARDS", 2)
    shards = ShardSet(write_shards(tmp_path / "run", tokenizer_dir, rows_per_shard=10), "train")
    assert len(shards.shard_rows) > 4
    expected = read_all(ShardSet(shards.folder, "train"))
    order = np.random.default_rng(0).permutation(len(shards))
    for row in order:
        assert shards.lengths(np.array([row])) == expected[row]
    assert len(shards._open) == 2


def test_a_shard_is_mapped_on_first_use(shards_dir):
    shards = ShardSet(shards_dir, "train")
    assert len(shards._open) == 0
    shards.locate(np.array([len(shards) - 1]))
    assert list(shards._open) == [len(shards.shard_rows) - 1]


def test_the_token_counts_of_other_content_are_refused_by_name(copied):
    (copied / "token_counts.json").write_text((copied / "token_counts.json").read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match=r"token_counts\.json: "):
        ShardSet(str(copied), "train").token_counts()


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory, tokenizer_dir):
    folder = tmp_path_factory.mktemp("dynamic") / "run"
    masking = {"dynamic": True, "rare_token_exponent": 0.7}
    return write_shards(folder, tokenizer_dir, masking=masking)


def test_dynamic_masks_of_the_first_epoch_are_the_static_ones(dynamic, tmp_path, tokenizer_dir):
    static = ShardSet(write_shards(tmp_path / "run", tokenizer_dir, masking={"rare_token_exponent": 0.7}), "train")
    drawn = ShardSet(dynamic, "train")
    rows = planned(np.arange(len(static)))
    masked = drawn.masker.mask(epochs=rows.epochs, **drawn.masker_inputs(drawn.locate(rows.rows)))
    assert static.masker is None
    assert masked.input_ids.tolist() == static.masker_inputs(static.locate(rows.rows))["ids"].tolist()
    assert drawn.mask_counts(rows.rows, rows.epochs).tolist() == static.mask_counts(rows.rows, rows.epochs).tolist()


def test_held_out_masks_are_static(dynamic):
    shards = ShardSet(dynamic, "heldout")
    assert shards.masker is None
    assert shards.mask_counts(np.arange(len(shards)), np.zeros(len(shards), np.int64)).sum() > 20
