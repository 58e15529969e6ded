"""The first phase of encoding: a part of the corpus becomes drafts, in a file of buckets for each split."""

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
_SPLIT = 100  # what a seed is used for
_MB = 1 << 20
TOKENS_PER_WORD = 1.35  # of English text with 30,000 ids, punctuation included; measured
BYTES_PER_TOKEN = 2.7  # of an example on disk, measured
_BUCKET_BYTES = 32 << 20


@dataclass(frozen=True)
class EncodingChunk:
    """Neighbouring documents of one file that one task encodes.

    Attributes:
        row: the number of the first of them in the corpus.
    """

    number: int
    file: str
    start: int
    stop: int
    row: int
    stored_bytes: int


def unpaired_file(folder: str, split: str, number: int) -> str:
    """Return the file of the drafts of a part."""
    return storage.join(folder, "work", split, f"{number:06d}.drafts")


def chunk_counts_file(folder: str, number: int) -> str:
    """Return the file of how often each id occurs in the train documents of a part: 64-bit integers, little-endian."""
    return storage.join(folder, "work/counts", f"{number:06d}.int64")


def written_splits(config: EncodeCorpusConfig) -> tuple[str, ...]:
    """The splits that a run writes."""
    return SPLITS if config.heldout_fraction else SPLITS[:1]


def is_heldout(rows: NDArray[np.int64], config: EncodeCorpusConfig) -> NDArray[np.bool_]:
    """Whether documents are held out: a property of the seed and their numbers alone."""
    return uniform(hash_integers(config.seed, _SPLIT, rows)) < config.heldout_fraction


def plan_encoding_chunks(corpus: Corpus, *, chunk_bytes: int) -> Iterator[EncodingChunk]:
    """Parts of about `chunk_bytes` of stored documents, in the order of the corpus."""
    number = row = 0
    for name, rows in corpus.files.items():
        parts = max(1, min(rows, round(corpus.stored_bytes[name] / chunk_bytes)))
        edges = [rows * part // parts for part in range(parts + 1)]
        for start, stop in pairwise(edges):
            uri, share = storage.join(corpus.folder, name), corpus.stored_bytes[name] // parts
            yield EncodingChunk(number, uri, start, stop, row + start, share)
            number += 1
        row += rows


def plan_buckets(corpus: Corpus, config: EncodeCorpusConfig) -> dict[str, int]:
    """The number of buckets of each split, a power of two: each will hold about 32 MB."""
    size = corpus.words * TOKENS_PER_WORD * BYTES_PER_TOKEN * config.dupe_factor
    shares = {"train": 1.0 - config.heldout_fraction, "heldout": config.heldout_fraction}
    return {split: 1 << max(0, int(size * shares[split] / _BUCKET_BYTES).bit_length() - 1) for split in SPLITS}


def encode_chunk(
    part: EncodingChunk, config: EncodeCorpusConfig, tokenizer_json: str, folder: str, *, buckets: dict[str, int]
) -> dict[str, Any]:
    """Write the drafts of a part, and return its counts.

    Raises:
        InputError: its file cannot be read, or a file cannot be written.
    """
    drafts = {split: UnpairedExamples(config) for split in written_splits(config)}
    token_counts = np.zeros(vocabulary_of(tokenizer_json).size, np.int64)
    row = part.row
    for sentences in read_sentences(part.file, part.start, part.stop):
        rows = np.arange(row, row + len(sentences))
        row += len(sentences)
        heldout = is_heldout(rows, config)
        for split, kept in (("train", ~heldout), ("heldout", heldout)):
            if kept.any():
                chosen: Sequence[int] = np.flatnonzero(kept).tolist()
                found = tokenize(rows[kept].tolist(), [sentences[index] for index in chosen], tokenizer_json)
                drafts[split].add(found)
                if split == "train":
                    token_counts += np.bincount(found.ids, minlength=len(token_counts))
    storage.write_bytes(chunk_counts_file(folder, part.number), token_counts.astype("<i8").tobytes())
    facts: dict[str, Any] = {"number": part.number}
    for split, drafted in drafts.items():
        with storage.FileWriter(unpaired_file(folder, split, part.number)) as file:
            rows_of, bytes_of = drafted.write(file.write, buckets=buckets[split])
        facts[split] = {"counts": dict(drafted.counts), "bucket_rows": rows_of, "bucket_bytes": bytes_of}
    facts["examples"] = sum(sum(facts[split]["bucket_rows"]) for split in drafts)
    return facts
