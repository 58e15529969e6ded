from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilray.errors import InputError
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
from distilray.pretraining_data.encoded_chunks import encode_chunk, is_heldout, plan_buckets, plan_encoding_chunks
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.shards import encode_config

DOCUMENTS = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus.open(write_corpus(tmp_path_factory.mktemp("parts") / "corpus", DOCUMENTS))


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 3000, 1 << 40])
def test_every_document_is_in_one_chunk_under_its_number(corpus, chunk_bytes):
    parts = list(plan_encoding_chunks(corpus, chunk_bytes=chunk_bytes))
    assert [part.number for part in parts] == list(range(len(parts)))
    found = []
    for part in parts:
        for sentences in read_sentences(part.file, part.start, part.stop):
            found += sentences
        assert part.row + part.stop - part.start == len(found)
    assert found == sentences_of(DOCUMENTS)
    assert len(parts) == {1: DOCUMENTS, 1 << 40: len(corpus.files)}.get(chunk_bytes, len(parts))


def test_only_the_row_groups_that_hold_the_documents_are_read(corpus, monkeypatch):
    read = []
    original = pq.ParquetFile.read_row_group

    def counted(file, group, **options):
        read.append(group)
        return original(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    uri = f"{corpus.folder}/{next(iter(corpus.files))}"
    assert sum(len(sentences) for sentences in read_sentences(uri, 5, 10)) == 5
    assert read == [1]  # groups of five documents


def test_a_truncated_file_of_documents_is_rejected_by_name(corpus, tmp_path):
    file = tmp_path / "torn.parquet"
    file.write_bytes(Path(f"{corpus.folder}/{next(iter(corpus.files))}").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"torn.parquet: cannot be read \(.+\); build the corpus again"):
        list(read_sentences(str(file), 0, 5))


def test_the_held_out_share_is_the_configured_one_and_follows_the_number_alone():
    config = encode_config(heldout_fraction=0.2)
    heldout = is_heldout(np.arange(10_000), config)
    assert abs(heldout.mean() - 0.2) < 4 * np.sqrt(0.16 / 10_000)
    assert heldout[5000:].tolist() == is_heldout(np.arange(5000, 10_000), config).tolist()
    assert heldout.tolist() != is_heldout(np.arange(10_000), encode_config(heldout_fraction=0.2, seed=1)).tolist()


@pytest.mark.parametrize(
    ("words", "copies", "train"),
    [(1000, 1, 1), (8_000_000, 1, 1), (30_000_000, 1, 2), (30_000_000, 10, 32), (3_300_000_000, 3, 1024)],
)
def test_a_bucket_holds_32_to_64_megabytes(words, copies, train):
    corpus = Corpus("unused", {"a": 1}, {"a": 1}, words)
    assert plan_buckets(corpus, encode_config(dupe_factor=copies, heldout_fraction=0.0))["train"] == train


def encoded(corpus, tokenizer_dir, folder, **changes):
    config = encode_config(heldout_fraction=0.3, **changes)
    part = next(plan_encoding_chunks(corpus, chunk_bytes=1 << 40))
    tokenizer_json = read_tokenizer(tokenizer_dir)
    return encode_chunk(part, config, tokenizer_json, str(folder), buckets={"train": 4, "heldout": 1}), part, config


def test_the_record_of_a_chunk_has_the_counts_of_both_splits(corpus, tokenizer_dir, tmp_path):
    facts, part, config = encoded(corpus, tokenizer_dir, tmp_path)
    heldout = is_heldout(np.arange(part.start, part.stop), config)
    assert facts["heldout"]["counts"]["documents"] == heldout.sum() > 0
    assert facts["train"]["counts"]["documents"] == (~heldout).sum() > 0
    for split, buckets in (("train", 4), ("heldout", 1)):
        size = (tmp_path / f"work/{split}/000000.drafts").stat().st_size
        assert sum(facts[split]["bucket_bytes"]) == size > 0
        assert len(facts[split]["bucket_rows"]) == buckets


def test_tokens_are_counted_in_the_train_documents_only_and_once(corpus, tokenizer_dir, tmp_path):
    _, part, config = encoded(corpus, tokenizer_dir, tmp_path, dupe_factor=3)
    tokenizer = build_tokenizer(read_tokenizer(tokenizer_dir))
    expected = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for row, sentences in enumerate(sentences_of(DOCUMENTS)[: part.stop]):
        if not is_heldout(np.array([row]), config)[0]:
            for sentence in sentences:
                np.add.at(expected, tokenizer.encode(sentence, add_special_tokens=False).ids, 1)
    found = np.frombuffer((tmp_path / "work/counts/000000.int64").read_bytes(), "<i8")
    assert found[: len(expected)].tolist() == expected.tolist()
    assert found.sum() == expected.sum() > 0


def test_a_chunk_without_held_out_documents_has_an_empty_file(corpus, tokenizer_dir, tmp_path):
    config = encode_config(heldout_fraction=1e-9)
    part = next(plan_encoding_chunks(corpus, chunk_bytes=1 << 40))
    facts = encode_chunk(part, config, read_tokenizer(tokenizer_dir), str(tmp_path), buckets={"train": 1, "heldout": 1})
    assert facts["heldout"]["bucket_rows"] == [0]
    assert (tmp_path / "work/heldout/000000.drafts").read_bytes() == b""
