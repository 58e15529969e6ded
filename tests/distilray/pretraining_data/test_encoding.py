"""Complete runs of `encode_corpus`, in this process and with Ray."""

import json
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.pretraining_data import encoding, shard_writer
from distilray.pretraining_data.shard_writer import plan_shard_groups
from distilray.pretraining_data.token_ids import tokenize
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import EXAMPLES
from jobs import encode_corpus
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import encode_config, encode_in_process, write_shards

DOCUMENTS, ROWS_PER_SHARD = 60, 30
VALUES = {"dupe_factor": 2, "rows_per_shard": ROWS_PER_SHARD, "heldout_fraction": 0.25}
both_splits = pytest.mark.parametrize("split", ["train", "heldout"])


class EncodedRun:
    """Content of a run folder of `encode_corpus`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        content = json.loads((self.folder / "manifest.json").read_text())["content"]
        self.counts, self.outputs = content["counts"], content["outputs"]

    def shards(self, split):
        """Return the tables of a split by name."""
        names = [name for name, entry in self.outputs.items() if entry.get("split") == split]
        return {name: pa.ipc.open_file(str(self.folder / name)).read_all() for name in names}

    def rows(self, *splits):
        return [row for split in splits for table in self.shards(split).values() for row in table.to_pylist()]


@pytest.fixture
def encode(tmp_path, tokenizer_dir):
    """Encode 60 documents, with some settings changed."""

    def run(**changes):
        return EncodedRun(write_shards(tmp_path / "run", tokenizer_dir, documents=DOCUMENTS, **{**VALUES, **changes}))

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer_dir):
    """A run with a single chunk, bucket and group."""
    folder = tmp_path_factory.mktemp("encoded") / "run"
    return EncodedRun(write_shards(folder, tokenizer_dir, documents=DOCUMENTS, chunk_mb=100, **VALUES))


@pytest.fixture(scope="module")
def tokens_of(tokenizer_dir):
    """Tokens of each document."""
    tokenized = tokenize(range(DOCUMENTS), sentences_of(DOCUMENTS), read_tokenizer(tokenizer_dir))
    return {each.row: tokenized.ids[each.start : each.start + each.ends[-1]].tolist() for each in tokenized.documents}


@given(st.integers(1, 2000), st.integers(1, 500), st.integers(1, 300))
def test_planned_shards_contain_every_example_once_and_have_equal_sizes(train, heldout, rows_per_shard):
    groups = plan_shard_groups({"train": train, "heldout": heldout}, rows_per_shard=rows_per_shard)
    assert [group.number for group in groups] == list(range(len(groups)))
    for split, total in (("train", train), ("heldout", heldout)):
        edges = [group.edges for group in groups if group.split == split]
        assert [before[-1] for before in edges[:-1]] == [after[0] for after in edges[1:]]
        sizes = [stop - start for group in edges for start, stop in pairwise(group)]
        assert sum(sizes) == total
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= rows_per_shard
        assert len(sizes) == -(-total // rows_per_shard)


def test_a_run_folder_contains_only_outputs_and_completed_pieces(whole, tokenizer_dir):
    files = {path.name for path in whole.folder.iterdir()}
    assert files == {"config.yaml", "pieces", "manifest.json", "shards", "token_counts.json", "tokenizer.json"}
    names = {f"shards/{file.name}" for file in (whole.folder / "shards").iterdir()}
    assert names == {*whole.shards("train"), *whole.shards("heldout")}
    expected = tokenizer_hash(read_tokenizer(tokenizer_dir))
    assert whole.counts["tokenizer_hash"] == tokenizer_hash(read_tokenizer(str(whole.folder))) == expected


@both_splits
def test_shards_are_named_and_sorted_by_their_keys_and_have_equal_sizes(whole, split):
    shards = whole.shards(split)
    sizes = [len(table) for table in shards.values()]
    assert len(sizes) == -(-sum(sizes) // ROWS_PER_SHARD) > 1
    assert max(sizes) - min(sizes) <= 1
    keys = [table["shuffle_key"].to_pylist() for table in shards.values()]
    assert [Path(name).stem for name in shards] == [f"{split}-{shard[0]:016x}" for shard in keys]
    assert all(before < after for before, after in pairwise(chain.from_iterable(keys)))


def test_every_document_is_in_exactly_one_split(whole):
    train, heldout = ({row["document_a"] for row in whole.rows(split)} for split in ("train", "heldout"))
    assert train & heldout == set()
    assert train | heldout == set(range(DOCUMENTS))
    assert [whole.counts["train"]["documents"], whole.counts["heldout"]["documents"]] == [len(train), len(heldout)]


def test_the_tokens_of_training_documents_are_counted_once(whole, tokens_of):
    documents = {row["document_a"] for row in whole.rows("train")}
    tokens = [token for document in documents for token in tokens_of[document]]
    counts = json.loads((whole.folder / "token_counts.json").read_text())["counts"]
    assert counts == np.bincount(tokens, minlength=len(counts)).tolist()
    assert whole.counts["train"]["document_tokens"] == len(tokens)


@both_splits
def test_a_random_segment_comes_from_another_document_of_the_same_split(whole, split):
    rows = whole.rows(split)
    assert sum(row["is_random_next"] for row in rows) > 10
    assert all(row["is_random_next"] == (row["document_a"] != row["document_b"]) for row in rows)
    assert {row["document_b"] for row in rows} <= {row["document_a"] for row in rows}


def test_segments_are_text_of_their_documents(whole, tokens_of):
    texts = {document: np.array(tokens, np.uint16).tobytes() for document, tokens in tokens_of.items()}
    for row in whole.rows("train", "heldout"):
        ids = np.array(row["input_ids"], dtype=np.uint16)
        ids[row["mask_positions"]] = row["mask_labels"]
        b_start = row["segment_b_start"]
        assert ids[1 : b_start - 1].tobytes() in texts[row["document_a"]]
        assert ids[b_start:-1].tobytes() in texts[row["document_b"]]


@both_splits
def test_the_counts_of_the_manifest_are_those_of_the_shards(whole, split):
    rows, counts = whole.rows(split), whole.counts[split]
    tokens, predicted = (sum(len(row[name]) for row in rows) for name in ("input_ids", "mask_positions"))
    random_next = sum(row["is_random_next"] for row in rows)
    assert (counts["examples"], counts["tokens"], counts["predicted"]) == (len(rows), tokens, predicted)
    assert counts["random_next"] == random_next
    for name, expected in {
        "random_next_share": random_next / len(rows),
        "predicted_share": predicted / tokens,
        "mask_share": counts["predicted_as_mask"] / predicted,
        "tokens_per_example": tokens / len(rows),
    }.items():
        assert counts[name] == pytest.approx(expected, abs=1e-3)
    entries = [entry for entry in whole.outputs.values() if entry.get("split") == split]
    assert [sum(entry[name] for entry in entries) for name in ("rows", "tokens")] == [len(rows), tokens]


@pytest.mark.parametrize(
    ("pieces", "changes", "group_rows"),
    [("chunks", {"chunk_mb": 0.0001}, shard_writer._GROUP_ROWS), ("groups", {}, 1)],
    ids=["small chunks", "small groups"],
)
def test_the_size_of_pieces_does_not_change_the_shards(encode, whole, monkeypatch, pieces, changes, group_rows):
    monkeypatch.setattr(shard_writer, "_GROUP_ROWS", group_rows)
    run = encode(**changes)
    assert len(list((run.folder / "pieces" / pieces).iterdir())) > 4
    assert run.outputs == whole.outputs


def test_buckets_change_only_random_segments(encode, whole, monkeypatch):
    chunks = [json.loads(piece.read_text()) for piece in (whole.folder / "pieces/chunks").iterdir()]
    assert {len(chunk["train"]["bucket_rows"]) for chunk in chunks} == {1}  # the corpus is small
    monkeypatch.setattr(encoding, "plan_buckets", lambda corpus, config: {"train": 16, "heldout": 4})
    run = encode()
    tables = list(run.shards("train").values())
    assert {len(table) for table in tables} == {len(table) for table in whole.shards("train").values()}
    assert all(table.schema.equals(EXAMPLES, check_metadata=True) for table in tables)
    rows, expected = run.rows("train", "heldout"), whole.rows("train", "heldout")
    for row, other in zip(rows, expected, strict=True):
        assert row["example_id"] == other["example_id"]
        assert row == other if not row["is_random_next"] else row["document_a"] != row["document_b"]


def test_paper_mode_has_contiguous_text_and_static_masks_in_the_heldout_split_only(encode, tokens_of):
    run = encode(mode="paper", dupe_factor=1, min_example_tokens=3)
    rows = sorted(run.rows("train"), key=lambda row: row["example_id"])
    texts, windows = {}, {}
    for row in rows:
        assert row["segment_b_start"] == len(row["input_ids"])
        texts.setdefault(row["document_a"], []).extend(row["input_ids"][1:-1])
        windows.setdefault(row["document_a"], []).append(len(row["input_ids"]) - 2)
    assert texts == {document: tokens_of[document] for document in texts}
    assert {length for lengths in windows.values() for length in lengths[:-1]} == {30}
    assert not any(row["mask_positions"] for row in rows)
    assert sum(len(row["mask_positions"]) for row in run.rows("heldout")) > 50


def train_counts(folder, sentences, tokenizer_dir, **changes):
    """Encode documents of the given sentences without a held-out split, and return their counts."""
    folders = {"corpus_dir": write_corpus(folder / "corpus", sentences=sentences), "tokenizer_dir": tokenizer_dir}
    config = encode_config(str(folder / "run"), **folders, heldout_fraction=0.0, **changes)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    return encode_in_process(config, run).counts["train"]


def test_the_summary_of_paper_mode_counts_examples_that_are_unknown(tmp_path, tokenizer_dir):
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=[*sentences_of(4), *[["\u96ea" * 5]] * 3])
    folders = {"corpus_dir": corpus_dir, "tokenizer_dir": tokenizer_dir}
    config = encode_config(str(tmp_path / "run"), **folders, mode="paper", heldout_fraction=0.0)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    assert "3 examples dropped because half of their tokens are unknown" in encode_in_process(config, run).summary


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({}, "dropped_tail_tokens"),
        ({"dupe_factor": 4, "random_next_probability": 0.0}, "reused_tokens"),
        ({"mode": "paper"}, "own_tokens"),
        ({"min_example_tokens": 20}, "dropped_short_tokens"),
        ({"single_sentence_documents": "drop"}, "dropped_single_segment_tokens"),
        ({"mode": "paper", "min_example_tokens": 3}, "dropped_unknown_tokens"),
    ],
)
def test_every_token_is_used_or_counted(tmp_path, tokenizer_dir, changes, counted):
    sentences = [*sentences_of(40), *[["rome is old"]] * 5, ["\u96ea\u96ea"]]
    counts = train_counts(tmp_path, sentences, tokenizer_dir, **changes)
    dropped = sum(number for name, number in counts.items() if name.startswith("dropped_") and "tokens" in name)
    read = changes.get("dupe_factor", 1) * counts["document_tokens"] + counts["reused_tokens"]
    assert read == counts["own_tokens"] + counts["trimmed_tokens"] + dropped
    assert counts[counted] > 0


@pytest.mark.parametrize("masking", [{"dynamic": True}, {"dynamic": False}, {"dynamic": True, "whole_words": True}])
def test_examples_without_any_prediction_are_counted(tmp_path, tokenizer_dir, masking):
    sentences = [["rome"], ["paris is old"], ["\u96ea\u96ea\u96ea\u96ea rome is old"], ["madrid is a big city"]]
    changes = {"mode": "paper", "min_example_tokens": 3, "masking": masking}
    counts = train_counts(tmp_path, sentences, tokenizer_dir, **changes)
    assert counts["examples"] == 4
    assert counts["examples_without_prediction"] == 3  # 15% of three tokens are none; unknown ones are not predicted


@pytest.mark.slow
def test_ray_tasks_write_the_same_outputs_as_one_process(whole, tmp_path, tokenizer_dir, capsys, local_ray):
    values = {"corpus_dir": f"{whole.folder}-corpus", "tokenizer_dir": tokenizer_dir, "max_seq_length": 32, **VALUES}
    write_recipe(tmp_path, chunk_mb=0.002, **values)

    def run(*overrides):
        arguments = ["--recipe", str(tmp_path / "recipe.yaml"), f"run_dir={tmp_path / 'run'}", *overrides]
        return encode_corpus.main(arguments)

    assert run() == 0
    assert EncodedRun(tmp_path / "run").outputs == whole.outputs
    before = (tmp_path / "run/manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run("ray.num_cpus=1") == 0  # does not change the identity of the run
    assert "skipped" in capsys.readouterr().out
    assert (tmp_path / "run/manifest.json").stat().st_mtime_ns == before
    assert run("masking.mlm_probability=0.2") == 2
    assert "masking.mlm_probability" in capsys.readouterr().err
