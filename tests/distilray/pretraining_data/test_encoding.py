import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.token_ids import tokenize
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from jobs import encode_corpus
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.recipes import write_recipe

pytestmark = pytest.mark.slow
DOCUMENTS = 40


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tokenizer_dir, no_ray):
    """A corpus, a recipe, and a run of it with one CPU."""
    folder = tmp_path_factory.mktemp("encode")
    write_corpus(folder / "corpus", DOCUMENTS)
    values = {
        "corpus_dir": str(folder / "corpus"),
        "tokenizer_dir": tokenizer_dir,
        "max_seq_length": 32,
        "dupe_factor": 2,
        "heldout_fraction": 0.25,
        "rows_per_shard": 70,
        "chunk_mb": 0.002,
    }
    write_recipe(folder, run_dir=str(folder / "two"), **values)
    assert run(folder, f"run_dir={folder}/one", "ray.num_cpus=1") == 0
    return folder


@pytest.fixture(scope="module")
def work(alone, local_ray):
    """The same with two CPUs, with larger chunks, and in paper mode."""
    assert run(alone) == 0
    assert run(alone, f"run_dir={alone}/parts", "chunk_mb=1") == 0
    assert run(alone, f"run_dir={alone}/paper", "mode=paper", "dupe_factor=1", "min_example_tokens=3") == 0
    return alone


def run(folder, *overrides):
    return encode_corpus.main(["--recipe", str(folder / "recipe.yaml"), *overrides])


def content(folder):
    return json.loads((folder / "manifest.json").read_text())["content"]


def shards(folder, split):
    outputs = content(folder)["outputs"]
    return {name: entry for name, entry in outputs.items() if entry.get("split") == split}


def tables(folder, split):
    return [pa.ipc.open_file(str(folder / name)).read_all() for name in shards(folder, split)]


def rows(folder, split):
    return [row for table in tables(folder, split) for row in table.to_pylist()]


@pytest.fixture(scope="module")
def text_of(tokenizer_dir):
    """The tokens of each document as bytes, by its number."""
    found = tokenize(range(DOCUMENTS), sentences_of(DOCUMENTS), read_tokenizer(tokenizer_dir))
    return {
        document.row: found.ids[document.start : document.start + document.ends[-1]].tobytes()
        for document in found.documents
    }


def test_one_cpu_writes_what_two_write(work):
    first, second = (json.loads((work / name / "manifest.json").read_text()) for name in ("two", "one"))
    assert first["content_hash"] == second["content_hash"]


def test_the_chunk_size_does_not_change_the_shards(work):
    marks = [len(list((work / name / "pieces/chunks").iterdir())) for name in ("two", "parts")]
    assert marks[0] > marks[1] > 0
    assert content(work / "two")["outputs"] == content(work / "parts")["outputs"]


def test_a_run_folder_contains_outputs_and_completed_pieces_only(work):
    files = {path.name for path in (work / "two").iterdir()}
    assert files == {"config.yaml", "pieces", "manifest.json", "shards", "token_counts.json", "tokenizer.json"}
    names = {f"shards/{file.name}" for file in (work / "two/shards").iterdir()}
    assert names == {*shards(work / "two", "train"), *shards(work / "two", "heldout")}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_shards_are_of_equal_size_in_the_order_of_their_keys(work, split):
    found = tables(work / "two", split)
    sizes = [len(table) for table in found]
    assert len(sizes) == -(-sum(sizes) // 70) > 1
    assert max(sizes) - min(sizes) <= 1
    keys = np.concatenate([table["shuffle_key"].to_numpy() for table in found])
    assert (np.diff(keys.astype(object)) > 0).all()


def test_the_name_of_a_shard_is_its_first_key(work):
    for split in ("train", "heldout"):
        for name, table in zip(shards(work / "two", split), tables(work / "two", split), strict=True):
            assert Path(name).stem == f"{split}-{table['shuffle_key'][0].as_py():016x}"


def test_every_document_is_in_exactly_one_split(work):
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


def test_the_rows_are_text_of_the_corpus(work, text_of):
    for row in [*rows(work / "two", "train"), *rows(work / "two", "heldout")]:
        ids = np.array(row["input_ids"], dtype=np.uint16)
        ids[row["mask_positions"]] = row["mask_labels"]
        second = row["segment_b_start"]
        assert ids[1 : second - 1].tobytes() in text_of[row["document_a"]]
        assert ids[second:-1].tobytes() in text_of[row["document_b"]]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_counts_of_the_manifest_are_those_of_the_shards(work, split):
    found, counts = rows(work / "two", split), content(work / "two")["counts"][split]
    assert counts["examples"] == len(found)
    assert counts["tokens"] == sum(len(row["input_ids"]) for row in found)
    assert counts["predicted"] == sum(len(row["mask_positions"]) for row in found)
    assert counts["random_next"] == sum(row["is_random_next"] for row in found)
    assert counts["random_next_share"] == pytest.approx(counts["random_next"] / len(found), abs=1e-6)
    assert sum(entry["tokens"] for entry in shards(work / "two", split).values()) == counts["tokens"]
    assert sum(entry["rows"] for entry in shards(work / "two", split).values()) == len(found)


def test_the_manifest_has_the_hash_of_the_tokenizer_in_the_run_folder(work, tokenizer_dir):
    expected = tokenizer_hash(read_tokenizer(tokenizer_dir))
    assert content(work / "two")["counts"]["tokenizer_hash"] == expected
    assert tokenizer_hash(read_tokenizer(str(work / "two"))) == expected


def test_examples_of_paper_mode_are_contiguous_and_contain_every_token(work, text_of):
    found = {}
    for row in rows(work / "paper", "train"):
        assert row["segment_b_start"] == len(row["input_ids"])
        found[row["example_id"]] = row["input_ids"][1:-1]
    documents = {example >> 32 for example in found}
    for document in documents:
        parts = [found[example] for example in sorted(found) if example >> 32 == document]
        assert np.array([token for part in parts for token in part], np.uint16).tobytes() == text_of[document]
        assert {len(part) for part in parts[:-1]} <= {30}


def test_in_paper_mode_only_held_out_examples_are_masked(work):
    assert {len(row["mask_positions"]) for row in rows(work / "paper", "train")} == {0}
    assert sum(len(row["mask_positions"]) for row in rows(work / "paper", "heldout")) > 50


def test_the_token_counts_are_those_of_the_train_documents(work, text_of):
    counts = np.array(json.loads((work / "paper/token_counts.json").read_text())["counts"])
    documents = {row["document_a"] for row in rows(work / "paper", "train")}
    tokens = np.frombuffer(b"".join(text_of[document] for document in documents), np.uint16)
    assert counts.tolist() == np.bincount(tokens, minlength=len(counts)).tolist()


def test_the_same_command_again_is_skipped(work, capsys):
    before = (work / "two/manifest.json").stat().st_mtime_ns
    assert run(work) == 0
    assert "skipped" in capsys.readouterr().out
    assert (work / "two/manifest.json").stat().st_mtime_ns == before


def test_another_mask_rate_in_the_same_folder_is_refused(work, capsys):
    assert run(work, "masking.mlm_probability=0.2") == 2
    assert "masking.mlm_probability" in capsys.readouterr().err
