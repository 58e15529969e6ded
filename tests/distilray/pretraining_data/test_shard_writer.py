import json
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.pretraining_data import encoding, shard_writer
from distilray.pretraining_data.shard_writer import plan_shard_groups
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import EXAMPLES
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.shards import encode_config, encode_in_process, write_shards


@given(st.integers(1, 2000), st.integers(1, 500), st.integers(1, 300))
def test_shards_hold_every_example_once_and_differ_by_one_row_at_most(train, heldout, rows_per_shard):
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


def shards_of(run):
    outputs = json.loads((run / "manifest.json").read_text())["content"]["outputs"]
    return {name: (run / name).read_bytes() for name in outputs if name.endswith(".arrow")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer_dir):
    """A run with a single chunk, bucket and group."""
    folder = tmp_path_factory.mktemp("publication") / "run"
    write_shards(folder, tokenizer_dir, documents=60, rows_per_shard=30, chunk_mb=100)
    return folder


def test_the_chunk_size_does_not_change_the_shards(whole, tmp_path, tokenizer_dir):
    write_shards(tmp_path / "run", tokenizer_dir, documents=60, rows_per_shard=30, chunk_mb=0.0001)
    assert shards_of(tmp_path / "run") == shards_of(whole)


def test_the_size_of_a_group_changes_no_byte(whole, tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(shard_writer, "_GROUP_ROWS", 1)
    write_shards(tmp_path / "run", tokenizer_dir, documents=60, rows_per_shard=30)
    groups = list((tmp_path / "run/pieces/groups").iterdir())
    assert len(groups) == len(shards_of(whole)) > 4
    assert shards_of(tmp_path / "run") == shards_of(whole)


def test_shards_span_bucket_boundaries(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(encoding, "plan_buckets", lambda corpus, config: {"train": 16, "heldout": 4})
    write_shards(tmp_path / "run", tokenizer_dir, documents=60, rows_per_shard=30)
    found = [pa.ipc.open_file(data).read_all() for name, data in shards_of(tmp_path / "run").items() if "train" in name]
    table = pa.concat_tables(found)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    keys = table["shuffle_key"].to_pylist()
    assert keys == sorted(keys)
    assert len(set(table["example_id"].to_pylist())) == len(table)
    assert table.schema.equals(EXAMPLES, check_metadata=True)
    documents = zip(*(table[name].to_pylist() for name in ("is_random_next", "document_a", "document_b")), strict=True)
    assert all(is_random == (a != b) for is_random, a, b in documents)


def test_the_number_of_buckets_changes_segments_b_of_other_documents_only(whole, tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(encoding, "plan_buckets", lambda corpus, config: {"train": 2, "heldout": 1})
    write_shards(tmp_path / "run", tokenizer_dir, documents=60, rows_per_shard=30)

    def consecutive(run):
        rows = [row for data in shards_of(run).values() for row in pa.ipc.open_file(data).read_all().to_pylist()]
        return [row for row in rows if not row["is_random_next"]]

    assert consecutive(tmp_path / "run") == consecutive(whole)


def test_small_corpora_have_one_bucket(whole):
    parts = [json.loads(mark.read_text()) for mark in (whole / "pieces/chunks").iterdir()]
    assert {len(part["train"]["bucket_rows"]) for part in parts} == {1}


def counts_of(folder, sentences, tokenizer_dir, **changes):
    """The counts of the train split for documents of the given sentences."""
    corpus_dir = write_corpus(folder / "corpus", sentences=sentences)
    config = encode_config(
        str(folder / "run"), corpus_dir=corpus_dir, tokenizer_dir=tokenizer_dir, heldout_fraction=0.0, **changes
    )
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    return encode_in_process(config, run).counts["train"]


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({}, "dropped_tail_tokens"),
        ({"dupe_factor": 4, "random_next_probability": 0.0}, "reused_tokens"),
        ({"mode": "paper"}, "own_tokens"),
        ({"min_example_tokens": 20}, "dropped_short_tokens"),
        ({"single_sentence_documents": "drop"}, "dropped_single_segment_tokens"),
    ],
)
def test_no_token_is_lost_without_being_counted(tmp_path, tokenizer_dir, changes, counted):
    counts = counts_of(tmp_path, [*sentences_of(40), *[["rome is old"]] * 5], tokenizer_dir, **changes)
    dropped = sum(number for name, number in counts.items() if name.startswith("dropped_") and "tokens" in name)
    read = changes.get("dupe_factor", 1) * counts["document_tokens"] + counts["reused_tokens"]
    assert read == counts["own_tokens"] + counts["trimmed_tokens"] + dropped
    assert counts[counted] > 0


@pytest.mark.parametrize("masking", [{"dynamic": True}, {"dynamic": False}, {"dynamic": True, "whole_words": True}])
def test_examples_without_any_prediction_are_counted(tmp_path, tokenizer_dir, masking):
    sentences = [["rome"], ["paris is old"], ["\u96ea\u96ea\u96ea\u96ea\u96ea\u96ea"], ["madrid is a big city"]]
    changes = {"mode": "paper", "min_example_tokens": 3, "masking": masking}
    counts = counts_of(tmp_path, sentences, tokenizer_dir, **changes)
    assert counts["examples"] == 4
    assert counts["examples_without_prediction"] == 3  # 15% of three tokens are none; unknown ones are not predicted
