import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.config.base import RayConfig
from distilray.pretraining_data.encoding.examples import encode_documents
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from distilray.runtime.session import ray_session
from jobs import encode_corpus
from tests.distilray.tiny_line import sentences_of, write_corpus, write_recipe

pytestmark = pytest.mark.slow
DOCUMENTS = 40


@pytest.fixture(scope="module")
def work(tmp_path_factory, tokenizer_dir):
    """A folder with a corpus and a recipe, and three runs of it: with two CPUs, one CPU, and other tasks."""
    folder = tmp_path_factory.mktemp("encode")
    write_corpus(folder / "corpus", DOCUMENTS)
    values = {
        "corpus_dir": str(folder / "corpus"),
        "tokenizer_dir": tokenizer_dir,
        "max_seq_length": 32,
        "dupe_factor": 2,
        "heldout_fraction": 0.25,
        "rows_per_shard": 70,
        "documents_per_task": 6,
    }
    write_recipe(folder, run_dir=str(folder / "two"), **values)
    with ray_session(RayConfig(num_cpus=2)):
        assert run(folder) == 0
        assert run(folder, f"run_dir={folder}/tasks", "documents_per_task=11") == 0
    assert run(folder, f"run_dir={folder}/one", "ray.num_cpus=1") == 0
    return folder


def run(folder, *overrides):
    return encode_corpus.main(["--recipe", str(folder / "recipe.yaml"), *overrides])


def content(folder):
    return json.loads((folder / "manifest.json").read_text())["content"]


def tables(folder, split):
    return [
        pa.ipc.open_file(str(folder / name)).read_all()
        for name, entry in content(folder)["outputs"].items()
        if entry["split"] == split
    ]


def rows(folder, split):
    return [row for table in tables(folder, split) for row in table.to_pylist()]


def test_one_cpu_writes_what_two_write(work):
    first, second = (json.loads((work / name / "manifest.json").read_text()) for name in ("two", "one"))
    assert first["content_hash"] == second["content_hash"]


def test_the_size_of_a_task_changes_no_byte(work):
    assert content(work / "two")["config"]["documents_per_task"] == 6
    assert content(work / "tasks")["config"]["documents_per_task"] == 11
    assert content(work / "two")["outputs"] == content(work / "tasks")["outputs"]


def test_every_shard_of_the_manifest_is_there_and_no_other(work):
    outputs = content(work / "two")["outputs"]
    assert {f"shards/{file.name}" for file in (work / "two/shards").iterdir()} == set(outputs)
    for split in ("train", "heldout"):
        shards = ShardSet(str(work / "two"), split, verify=True)
        assert len(shards) == sum(entry["rows"] for entry in outputs.values() if entry["split"] == split)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_shards_are_of_equal_size_in_the_order_of_their_keys(work, split):
    found = tables(work / "two", split)
    sizes = [len(table) for table in found]
    assert len(sizes) == -(-sum(sizes) // 70) > 1
    assert max(sizes) - min(sizes) <= 1
    keys = np.concatenate([table["shuffle_key"].to_numpy() for table in found])
    assert (np.diff(keys.astype(object)) > 0).all()


def test_the_name_of_a_shard_is_its_first_key(work):
    for name in content(work / "two")["outputs"]:
        first = pa.ipc.open_file(str(work / "two" / name)).read_all()["shuffle_key"][0].as_py()
        assert Path(name).stem.split("-")[1] == f"{first:016x}"


def test_no_document_is_in_both_splits_and_none_is_missing(work):
    train, heldout = ({row["document_a"] for row in rows(work / "two", split)} for split in ("train", "heldout"))
    assert train & heldout == set()
    assert train | heldout == set(range(DOCUMENTS))
    counts = content(work / "two")["counts"]
    assert [counts["train"]["documents"], counts["heldout"]["documents"]] == [len(train), len(heldout)]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_random_segment_comes_from_another_document_of_the_same_split(work, split):
    found = rows(work / "two", split)
    documents = {row["document_a"] for row in found}
    random_rows = [row for row in found if row["is_random_next"]]
    assert len(random_rows) > 10
    assert all(row["document_b"] != row["document_a"] for row in random_rows)
    assert {row["document_b"] for row in found} <= documents


def test_the_rows_are_text_of_the_corpus(work, tokenizer_dir):
    documents = encode_documents(range(DOCUMENTS), sentences_of(DOCUMENTS), read_tokenizer(tokenizer_dir))
    text = {document.row: np.concatenate(document.sentences).tobytes() for document in documents}
    for row in [*rows(work / "two", "train"), *rows(work / "two", "heldout")]:
        ids = np.array(row["input_ids"], dtype=np.uint16)
        ids[row["mask_positions"]] = row["mask_labels"]
        second = row["segment_b_start"]
        assert ids[1 : second - 1].tobytes() in text[row["document_a"]]
        assert ids[second:-1].tobytes() in text[row["document_b"]]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_counts_of_the_manifest_are_those_of_the_shards(work, split):
    found, manifest = rows(work / "two", split), content(work / "two")
    counts = manifest["counts"][split]
    assert counts["examples"] == len(found)
    assert counts["tokens"] == sum(len(row["input_ids"]) for row in found)
    assert counts["predicted"] == sum(len(row["mask_positions"]) for row in found)
    assert counts["random_next"] == sum(row["is_random_next"] for row in found)
    entries = [entry for entry in manifest["outputs"].values() if entry["split"] == split]
    assert sum(entry["tokens"] for entry in entries) == counts["tokens"]


def test_the_manifest_names_the_tokenizer(work, tokenizer_dir):
    assert content(work / "two")["counts"]["tokenizer_hash"] == tokenizer_hash(read_tokenizer(tokenizer_dir))


def test_the_same_command_again_is_skipped(work, capsys):
    before = (work / "two/manifest.json").stat().st_mtime_ns
    assert run(work) == 0
    assert "skipped" in capsys.readouterr().out
    assert (work / "two/manifest.json").stat().st_mtime_ns == before


def test_another_mask_rate_in_the_same_folder_is_refused(work, capsys):
    assert run(work, "masking.mlm_probability=0.2") == 2
    assert "masking.mlm_probability" in capsys.readouterr().err
