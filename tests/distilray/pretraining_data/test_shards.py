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
from tests.tiny.shards import write_shards


@pytest.fixture
def copy(shards_dir, tmp_path):
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(shards_dir, tmp_path / "copy"))


@pytest.fixture(scope="module")
def table(shards_dir):
    return pa.ipc.open_file(str(train_files(shards_dir)[1])).read_all()


def train_files(folder):
    return sorted(Path(folder, "shards").glob("train-*"))


def change_manifest(folder, change):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest["content"])
    file.write_text(json.dumps(manifest))


def update_manifest(folder, file):
    """Update the manifest for a changed file, so that only its content can be invalid."""
    entry = {"bytes": file.stat().st_size, "sha256": storage.sha256(str(file))}
    change_manifest(folder, lambda content: content["outputs"][f"shards/{file.name}"].update(entry))


def read_all(shards):
    return shards.lengths(np.arange(len(shards)))


@pytest.mark.parametrize("rows", [slice(None), slice(7, 12)], ids=["table", "slice"])
def test_a_shard_contains_every_value_of_a_table(table, tmp_path, rows):
    part = table.slice(rows.start or 0, len(range(len(table))[rows]))
    entry = write_shard(part, str(tmp_path / "one.arrow"))
    stored = pa.ipc.open_file(str(tmp_path / "one.arrow")).read_all()
    assert stored.schema.equals(EXAMPLES, check_metadata=True)
    assert stored.to_pylist() == part.to_pylist()
    shard = Shard.open(str(tmp_path / "one.arrow"), "one")
    for name in ("input_ids", "mask_positions", "mask_labels"):
        column, values = getattr(shard, name), part.column(name).to_pylist()
        assert [column.row(row).tolist() for row in range(len(part))] == values
        assert column.lengths(np.arange(len(part))).tolist() == [len(row) for row in values]
    for name in ("segment_b_start", "example_id", "document_b", "trimmed"):
        assert getattr(shard, name).tolist() == part.column(name).to_pylist()
    file = tmp_path / "one.arrow"
    tokens = sum(len(row) for row in part.column("input_ids").to_pylist())
    size = {"bytes": file.stat().st_size, "sha256": storage.sha256(str(file))}
    assert entry == {"rows": len(part), "tokens": tokens, **size}
    assert len(part) == len(table) or size["bytes"] < write_shard(table, str(tmp_path / "all.arrow"))["bytes"] / 2


def test_rows_are_numbered_over_all_shards(shards_dir):
    shards = ShardSet(shards_dir, "train")
    tables = [pa.ipc.open_file(str(file)).read_all() for file in train_files(shards_dir)]
    expected = [row for table in tables for row in table.to_pylist()]
    assert shards.shard_rows == tuple(map(len, tables))
    assert len(tables) > 1
    assert len(shards) == len(expected)
    order = np.random.default_rng(0).permutation(len(shards))
    rows = [expected[row] for row in order]
    for row, (shard, local_row) in zip(rows, shards.locate(order), strict=True):
        assert shard.input_ids.row(local_row).tolist() == row["input_ids"]
        assert shard.segment_b_start[local_row] == row["segment_b_start"]
        assert shard.mask_labels.row(local_row).tolist() == row["mask_labels"]
    assert shards.example_ids(order).tolist() == [row["example_id"] for row in rows]
    assert shards.lengths(order).tolist() == [len(row["input_ids"]) for row in rows]
    assert shards.mask_counts(order, np.zeros_like(order)).tolist() == [len(row["mask_labels"]) for row in rows]
    assert shards.tokens == shards.lengths(order).sum()


def test_an_unchanged_copy_is_accepted(shards_dir, copy):
    tokenizer_hash = ShardSet(shards_dir, "train").tokenizer_hash
    assert len(ShardSet(str(copy), "train", tokenizer_hash=tokenizer_hash, verify=True)) > 0


def test_a_changed_byte_is_detected_when_the_content_is_verified(copy):
    file = train_files(copy)[1]
    data = bytearray(file.read_bytes())
    data[2000] ^= 0xFF
    file.write_bytes(bytes(data))
    ShardSet(str(copy), "train")
    with pytest.raises(InputError, match=rf"{file.name}: .*sha256"):
        ShardSet(str(copy), "train", verify=True)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_shard_of_another_size_is_refused_by_name(copy, size):
    file = train_files(copy)[1]
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match=rf"{file.name}: \d+ bytes, but the manifest records"):
        ShardSet(str(copy), "train")


def test_a_missing_shard_is_refused_by_name(copy):
    file = train_files(copy)[1]
    file.unlink()
    with pytest.raises(InputError, match=file.name):
        ShardSet(str(copy), "train")


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"\0" * 4096, "half"], ids=str)
def test_a_file_that_is_not_complete_arrow_is_refused_by_name(copy, content):
    file = train_files(copy)[1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == "half" else content)
    update_manifest(copy, file)
    with pytest.raises(InputError, match=rf"{file.name}: not a complete Arrow file"):
        read_all(ShardSet(str(copy), "train", verify=True))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (EXAMPLES.with_metadata({b"distilray.schema": b"examples/1"}), "schema 'examples/1'"),
        (EXAMPLES.remove_metadata(), "schema 'none'"),
        (EXAMPLES.remove(EXAMPLES.get_field_index("trimmed")), "columns differ"),
    ],
    ids=["another version", "no version", "a missing column"],
)
def test_a_shard_of_another_schema_is_refused_by_name(copy, table, schema, reason):
    file = train_files(copy)[1]
    with pa.ipc.new_file(str(file), schema) as writer:
        writer.write_table(table.select(schema.names).cast(schema).combine_chunks())
    update_manifest(copy, file)
    with pytest.raises(InputError, match=rf"{file.name}: .*{reason}"):
        read_all(ShardSet(str(copy), "train"))


def drop_heldout(content):
    content["outputs"] = {name: entry for name, entry in content["outputs"].items() if entry.get("split") == "train"}


def test_runs_that_cannot_be_used_are_refused_by_folder(copy):
    with pytest.raises(InputError, match=r"copy: encoded with tokenizer .*the model has 000000000000"):
        ShardSet(str(copy), "train", tokenizer_hash="0" * 64)
    change_manifest(copy, drop_heldout)
    with pytest.raises(InputError, match=r"copy: no rows in split 'heldout'"):
        ShardSet(str(copy), "heldout")
    change_manifest(copy, lambda content: content.update(job="build_corpus"))
    with pytest.raises(InputError, match=r"copy: written by build_corpus, not by encode_corpus"):
        ShardSet(str(copy), "train")
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"copy: no manifest\.json"):
        ShardSet(str(copy), "train")


def test_changed_token_counts_are_refused_by_name(copy):
    file = copy / "token_counts.json"
    file.write_text(file.read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match=r"token_counts\.json: "):
        ShardSet(str(copy), "train").token_counts()


def test_shards_are_mapped_on_first_use_and_the_least_recently_used_is_closed(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(shards_module, "_MAX_OPEN_SHARDS", 2)
    shards = ShardSet(write_shards(tmp_path / "run", tokenizer_dir, rows_per_shard=20), "train")
    opened, open_shard = [], Shard.open

    def record(path, name):
        opened.append(Path(path).name)
        return open_shard(path, name)

    monkeypatch.setattr(Shard, "open", record)
    first_rows = np.cumsum([0, *shards.shard_rows])
    for shard in (0, 1, 0, 2, 0, 1):
        shards.lengths(first_rows[shard : shard + 1])
    assert opened == [Path(shards.names[shard]).name for shard in (0, 1, 2, 1)]
