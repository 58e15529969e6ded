"""First phase of encoding: tokenizes a chunk of the corpus and writes its unpaired examples, one file per split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
from distilray.pretraining_data.token_ids import tokenize
from distilray.pretraining_data.tokenizer import vocabulary_of
from distilray.pretraining_data.unpaired_examples import UnpairedExamples
from distilray.runtime import storage
from distilray.runtime.seeding import hash_integers, uniform

SPLITS = ("train", "heldout")
_SPLIT = 100  # random stream that assigns documents to splits
_MB = 1 << 20
TOKENS_PER_WORD = 1.35  # measured on English text with 30,000 ids, including punctuation
BYTES_PER_TOKEN = 2.7  # measured size of examples on disk
_BUCKET_BYTES = 32 << 20


@dataclass(frozen=True)
class EncodingChunk:
    """Documents [start, stop) of one file, encoded by one task.

    Attributes:
        row: corpus-wide number of the first document.
        stored_bytes: approximate size of the documents as stored.
    """

    number: int
    file: str
    start: int
    stop: int
    row: int
    stored_bytes: int


def unpaired_file(folder: str, split: str, number: int) -> str:
    """Return the file of the unpaired examples of a chunk."""
    return storage.join(folder, "work", split, f"{number:06d}.drafts")


def chunk_counts_file(folder: str, number: int) -> str:
    """Return the file of the token counts of the training documents of a chunk: little-endian 64-bit integers."""
    return storage.join(folder, "work/counts", f"{number:06d}.int64")


def written_splits(config: EncodeCorpusConfig) -> tuple[str, ...]:
    """Return the splits that a run writes."""
    return SPLITS if config.heldout_fraction else SPLITS[:1]


def is_heldout(rows: NDArray[np.int64], config: EncodeCorpusConfig) -> NDArray[np.bool_]:
    """Return True for held-out documents, as a pure function of the seed and their numbers."""
    return uniform(hash_integers(config.seed, _SPLIT, rows)) < config.heldout_fraction


def plan_encoding_chunks(corpus: Corpus, *, chunk_bytes: int) -> Iterator[EncodingChunk]:
    """Yield chunks of about `chunk_bytes` bytes of stored documents, in the order of the corpus."""
    number = row = 0
    for name, rows in corpus.files.items():
        chunks = max(1, min(rows, round(corpus.stored_bytes[name] / chunk_bytes)))
        edges = [rows * chunk // chunks for chunk in range(chunks + 1)]
        uri, stored_bytes = storage.join(corpus.folder, name), corpus.stored_bytes[name] // chunks
        for start, stop in pairwise(edges):
            yield EncodingChunk(number, uri, start, stop, row + start, stored_bytes)
            number += 1
        row += rows


def plan_buckets(corpus: Corpus, config: EncodeCorpusConfig) -> dict[str, int]:
    """Return the number of buckets of each split: a power of two that gives buckets of about 32 MB."""
    size = corpus.words * TOKENS_PER_WORD * BYTES_PER_TOKEN * config.dupe_factor
    shares = {"train": 1.0 - config.heldout_fraction, "heldout": config.heldout_fraction}
    return {split: 1 << max(0, int(size * shares[split] / _BUCKET_BYTES).bit_length() - 1) for split in SPLITS}


def encode_chunk(
    chunk: EncodingChunk, config: EncodeCorpusConfig, tokenizer_json: str, folder: str, *, buckets: dict[str, int]
) -> dict[str, Any]:
    """Write the unpaired examples of a chunk, and return its counts.

    Raises:
        InputError: the file of the corpus cannot be read, or an output cannot be written.
    """
    vocabulary = vocabulary_of(tokenizer_json)
    unpaired = {split: UnpairedExamples(config, vocabulary.unk) for split in written_splits(config)}
    token_counts = np.zeros(vocabulary.size, np.int64)
    row = chunk.row
    for sentences in read_sentences(chunk.file, chunk.start, chunk.stop):
        rows = np.arange(row, row + len(sentences))
        row += len(sentences)
        heldout = is_heldout(rows, config)
        for split, selected in (("train", ~heldout), ("heldout", heldout)):
            if selected.any():
                indices: Sequence[int] = np.flatnonzero(selected).tolist()
                tokenized = tokenize(rows[selected].tolist(), [sentences[index] for index in indices], tokenizer_json)
                unpaired[split].add(tokenized)
                if split == "train":
                    token_counts += np.bincount(tokenized.ids, minlength=len(token_counts))
    storage.write_bytes(chunk_counts_file(folder, chunk.number), token_counts.astype("<i8").tobytes())
    record: dict[str, Any] = {"number": chunk.number}
    for split, examples in unpaired.items():
        with storage.FileWriter(unpaired_file(folder, split, chunk.number)) as file:
            bucket_rows, bucket_bytes = examples.write(file.write, buckets=buckets[split])
        record[split] = {"counts": dict(examples.counts), "bucket_rows": bucket_rows, "bucket_bytes": bucket_bytes}
    record["examples"] = sum(sum(record[split]["bucket_rows"]) for split in unpaired)
    return record
