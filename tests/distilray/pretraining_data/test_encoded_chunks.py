from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilray.errors import InputError
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
from distilray.pretraining_data.encoded_chunks import is_heldout, plan_buckets, plan_encoding_chunks
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.shards import encode_config

DOCUMENTS = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus.open(write_corpus(tmp_path_factory.mktemp("chunks") / "corpus", DOCUMENTS))


@pytest.fixture
def file(corpus):
    return f"{corpus.folder}/{next(iter(corpus.files))}"


@pytest.mark.parametrize(("chunk_bytes", "chunks"), [(1, DOCUMENTS), (1000, None), (3000, None), (1 << 40, 3)])
def test_every_document_is_in_one_chunk_under_its_number(corpus, chunk_bytes, chunks):
    planned = list(plan_encoding_chunks(corpus, chunk_bytes=chunk_bytes))
    assert [chunk.number for chunk in planned] == list(range(chunks or len(planned)))
    documents = []
    for chunk in planned:
        assert chunk.row == len(documents)
        for sentences in read_sentences(chunk.file, chunk.start, chunk.stop):
            documents += sentences
    assert documents == sentences_of(DOCUMENTS)


def test_only_the_row_groups_with_the_documents_are_read(file, monkeypatch):
    groups, original = [], pq.ParquetFile.read_row_group

    def record(parquet, group, **options):
        groups.append(group)
        return original(parquet, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", record)
    assert sum(len(sentences) for sentences in read_sentences(file, 5, 10)) == 5
    assert groups == [1]  # groups of five documents


def test_a_truncated_file_of_documents_is_refused_by_name(file, tmp_path):
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(Path(file).read_bytes()[:-40])
    with pytest.raises(InputError, match=r"torn.parquet: cannot be read \(.+\); build the corpus again"):
        list(read_sentences(str(torn), 0, 5))


def test_held_out_documents_have_the_configured_share_and_depend_on_seed_and_number_only():
    heldout, other = (is_heldout(np.arange(10_000), encode_config(heldout_fraction=0.2, seed=seed)) for seed in (0, 1))
    assert abs(heldout.mean() - 0.2) < 4 * np.sqrt(0.16 / 10_000)
    part = is_heldout(np.arange(5000, 10_000), encode_config(heldout_fraction=0.2, seed=0))
    assert heldout[5000:].tolist() == part.tolist()
    assert heldout.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("words", "copies", "buckets"),
    [(1000, 1, 1), (8_000_000, 1, 1), (30_000_000, 1, 2), (30_000_000, 10, 32), (3_300_000_000, 3, 1024)],
)
def test_a_bucket_contains_32_to_64_megabytes(words, copies, buckets):
    corpus = Corpus("unused", {"a": 1}, {"a": 1}, words)
    assert plan_buckets(corpus, encode_config(dupe_factor=copies, heldout_fraction=0.0))["train"] == buckets
