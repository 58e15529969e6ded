"""Encodes a corpus into masked Arrow shards, with Ray Data."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.errors import InputError
from distilray.pretraining_data.encoding.examples import ExampleEncoder, encode_documents, example_statistics
from distilray.pretraining_data.segment_pairs import Document
from distilray.pretraining_data.shards import SHARDS_FOLDER, SPLITS, write_shard
from distilray.pretraining_data.tokenizer import TOKENIZER_FILE, read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder, read_manifest
from distilray.runtime.sample import resolve
from distilray.runtime.seeding import hash_integers, uniform
from distilray.runtime.session import ray_session

_SPLIT, _POOL = range(100, 102)  # what a seed is used for
_BYTES_PER_TOKEN = 4.0  # of a shard on disk, measured


@dataclass(frozen=True)
class Corpus:
    """The documents that a corpus run handed over: files in order, each with its number of rows."""

    folder: str
    files: Mapping[str, int]

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(self.files.values())

    @classmethod
    def open(cls, folder: str) -> "Corpus":
        """Reads the manifest of a corpus run.

        Raises:
            InputError: incomplete run, run of another job, or an empty corpus.
        """
        content = read_manifest(folder)["content"]
        if content["job"] != "build_corpus":
            raise InputError(f"{folder}: written by {content['job']}, not by build_corpus")
        corpus = cls(folder, {name: entry["rows"] for name, entry in sorted(content["outputs"].items())})
        if corpus.documents == 0:
            raise InputError(f"{folder}: the corpus holds no document")
        return corpus

    def chunks(self, size: int) -> Iterator[dict[str, Any]]:
        """Runs of at most `size` documents of one file; `row` is the number of the first in the corpus."""
        row = 0
        for name, rows in self.files.items():
            for start in range(0, rows, size):
                stop = min(start + size, rows)
                yield {"file": storage.join(self.folder, name), "start": start, "stop": stop, "row": row + start}
            row += rows


def encoding_inputs(config: EncodeCorpusConfig) -> dict[str, str]:
    """What `encode_corpus` reads."""
    return {"corpus": config.corpus_dir, "tokenizer": storage.join(resolve(config.tokenizer_dir), TOKENIZER_FILE)}


def plan_shards(config: EncodeCorpusConfig) -> dict[str, object]:
    """Validates the inputs of `encode_corpus` and says what it would do."""
    corpus = Corpus.open(config.corpus_dir)
    for split in _splits(config):
        _count_documents(config, corpus, split)
    vocabulary = vocabulary_of(read_tokenizer(resolve(config.tokenizer_dir)))
    words = read_manifest(config.corpus_dir)["content"]["counts"]["words"]
    tokens = int(words * 1.35 * config.dupe_factor)
    return {
        "corpus": f"{config.corpus_dir}: {corpus.documents:,} documents, {words:,} words",
        "vocabulary": f"{vocabulary.size:,} ids",
        "tokens": f"about {tokens:,} in {config.dupe_factor} copies",
        "examples": f"about {int(tokens / config.max_seq_length * 1.3):,} of at most {config.max_seq_length} tokens",
        "bytes written": f"about {int(tokens * _BYTES_PER_TOKEN):,}",
        "held out": f"{config.heldout_fraction:.1%} of the documents",
    }


def encode_corpus(config: EncodeCorpusConfig, folder: RunFolder) -> Outcome:
    """Writes the shards of both splits into the run folder."""
    corpus = Corpus.open(config.corpus_dir)
    tokenizer_json = read_tokenizer(resolve(config.tokenizer_dir))
    storage.remove_folder(folder.path(SHARDS_FOLDER))
    storage.make_folder(folder.path(SHARDS_FOLDER))
    outputs: dict[str, Any] = {}
    counts: dict[str, Any] = {"tokenizer_hash": tokenizer_hash(tokenizer_json)}
    with ray_session(config.ray):
        for split in _splits(config):
            documents = _count_documents(config, corpus, split)
            pool = _draw_pool(config, corpus, tokenizer_json, split, documents)
            if len(pool) < 2:
                raise InputError(
                    f"{config.corpus_dir}: {len(pool)} document(s) of split '{split}' with text in the pool of random "
                    "segments, where two are needed; use a larger corpus or a larger random_pool_documents"
                )
            encoder = ray.put(ExampleEncoder(config, tokenizer_json, pool))
            entries, statistics = _write_split(config, corpus, encoder, split, folder)
            outputs |= entries
            counts[split] = {"documents": documents, "pool_documents": len(pool), **statistics}
    train = counts["train"]
    summary = (
        f"{train['examples']:,} train and {counts.get('heldout', {}).get('examples', 0):,} held-out examples, "
        f"{train['tokens']:,} train tokens, {train['random_next'] / train['examples']:.1%} random next"
    )
    return Outcome(summary, counts, outputs)


def _splits(config: EncodeCorpusConfig) -> tuple[str, ...]:
    return SPLITS if config.heldout_fraction else SPLITS[:1]


def _count_documents(config: EncodeCorpusConfig, corpus: Corpus, split: str) -> int:
    """Documents of a split; at least two, since segment B of a random pair comes from another one."""
    documents = int(_in_split(np.arange(corpus.documents), config, split).sum())
    if documents < 2:
        raise InputError(
            f"{config.corpus_dir}: {documents} document(s) in split '{split}', and segment B comes from "
            "another document; use a larger corpus or another heldout_fraction"
        )
    return documents


def _in_split(rows: NDArray[np.int64], config: EncodeCorpusConfig, split: str) -> NDArray[np.bool_]:
    heldout = uniform(hash_integers(config.seed, _SPLIT, rows)) < config.heldout_fraction
    return heldout if split == "heldout" else ~heldout


def _read_documents(chunk: Mapping[str, Any], keep: NDArray[np.bool_], tokenizer_json: str) -> list[Document]:
    """The documents of a chunk that `keep` selects, as token ids; only the row groups that hold them are read."""
    found, path = storage.filesystem(chunk["file"])
    start, stop, read = int(chunk["start"]), int(chunk["stop"]), []
    with pq.ParquetFile(path, filesystem=found) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first < stop and first + rows > start:
                column = file.read_row_group(group, columns=["sentences"]).column("sentences")
                read += column.slice(max(0, start - first), min(stop, first + rows) - max(start, first)).to_pylist()
            first += rows
    kept = np.flatnonzero(keep)
    return encode_documents((kept + int(chunk["row"])).tolist(), [read[index] for index in kept], tokenizer_json)


def _chunk_rows(chunk: Mapping[str, Any]) -> NDArray[np.int64]:
    return np.arange(int(chunk["stop"]) - int(chunk["start"])) + int(chunk["row"])


def _single(batch: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: column[0] for name, column in batch.items()}


def _pool_chunk(
    batch: Mapping[str, NDArray[Any]], *, config: EncodeCorpusConfig, split: str, share: float, tokenizer: list[Any]
) -> dict[str, Any]:
    chunk = _single(batch)
    rows = _chunk_rows(chunk)
    keep = _in_split(rows, config, split) & (uniform(hash_integers(config.seed, _POOL, rows)) < share)
    documents = _read_documents(chunk, keep, ray.get(tokenizer[0]))
    return {
        "row": np.array([document.row for document in documents], dtype=np.int64),
        "ids": _objects([np.concatenate(document.sentences).tobytes() for document in documents]),
        "lengths": _objects(
            [np.array([len(part) for part in document.sentences], np.int32).tobytes() for document in documents]
        ),
    }


def _objects(values: list[bytes]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _draw_pool(
    config: EncodeCorpusConfig, corpus: Corpus, tokenizer_json: str, split: str, documents: int
) -> list[Document]:
    """A uniform sample of about `random_pool_documents` documents of the split, at least two of them."""
    share = 1.0 if documents <= max(64, config.random_pool_documents) else config.random_pool_documents / documents
    pooled = _chunk_dataset(corpus, config).map_batches(
        _pool_chunk,
        batch_size=1,
        batch_format="numpy",
        fn_kwargs={"config": config, "split": split, "share": share, "tokenizer": [ray.put(tokenizer_json)]},
    )
    pool = []
    for row in pooled.iter_rows():
        ends = np.cumsum(np.frombuffer(row["lengths"], np.int32))
        pool.append(Document(int(row["row"]), np.split(np.frombuffer(row["ids"], np.uint16), ends[:-1])))
    return pool


def _chunk_dataset(corpus: Corpus, config: EncodeCorpusConfig) -> Any:
    chunks = list(corpus.chunks(config.documents_per_task))
    return ray.data.from_items(chunks, override_num_blocks=len(chunks))


def _encode_chunk(batch: Mapping[str, NDArray[Any]], *, split: str, encoder: list[Any]) -> pa.Table:
    chunk = _single(batch)
    example_encoder: ExampleEncoder = ray.get(encoder[0])
    keep = _in_split(_chunk_rows(chunk), example_encoder.config, split)
    return example_encoder.encode(_read_documents(chunk, keep, example_encoder.tokenizer_json))


def _write_block(table: pa.Table, *, folder: str, split: str, encoder: list[Any]) -> dict[str, list[str]]:
    if not len(table):
        return {"name": [], "entry": []}
    name = f"{SHARDS_FOLDER}/{split}-{table.column('shuffle_key')[0].as_py():016x}.arrow"
    vocabulary = vocabulary_of(ray.get(encoder[0]).tokenizer_json)
    entry = {"split": split, **write_shard(table, storage.join(folder, name))}
    return {"name": [name], "entry": [json.dumps([entry, example_statistics(table, vocabulary)])]}


def _write_split(
    config: EncodeCorpusConfig, corpus: Corpus, encoder: Any, split: str, folder: RunFolder
) -> tuple[dict[str, Any], dict[str, int]]:
    """Encodes the documents of a split and writes them as shards of equal size in the order of their shuffle keys."""
    encoded = _chunk_dataset(corpus, config).map_batches(
        functools.partial(_encode_chunk, split=split, encoder=[encoder]), batch_size=1, batch_format="numpy"
    )
    refs, rows, chunks = [], 0, len(list(corpus.chunks(config.documents_per_task)))
    with Progress(f"encode_corpus {split}", total=chunks, unit="chunks") as progress:
        for bundle in encoded.iter_internal_ref_bundles():
            refs += bundle.block_refs
            rows += bundle.num_rows() or 0
            progress.advance(note=f"{rows:,} examples")
    if rows == 0:
        raise InputError(f"{corpus.folder}: no example in split '{split}'; the documents hold no text")
    written = (
        ray.data.from_arrow_refs(refs)
        .sort("shuffle_key")
        .repartition(-(-rows // config.rows_per_shard))
        .map_batches(
            functools.partial(_write_block, folder=folder.uri, split=split, encoder=[encoder]),
            batch_size=None,
            batch_format="pyarrow",
        )
    )
    entries, statistics = {}, Counter[str]()
    for row in written.iter_rows():
        entry, found = json.loads(row["entry"])
        entries[row["name"]] = entry
        statistics.update(found)
    assert statistics["examples"] == rows
    return dict(sorted(entries.items())), dict(statistics)
