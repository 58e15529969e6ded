"""Encoding of a corpus as masked Arrow shards, in two phases with Ray Data.

In the first phase, each task tokenizes a chunk of the corpus, splits it into unpaired examples and sorts these into
buckets of the global random order. In the second phase, tasks pair and mask the examples of consecutive buckets and
write them as shards of equal size. An interrupted run resumes with its incomplete pieces and writes the same shards.
The driver only handles counts.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.config.sample import resolve_sample
from distilray.errors import InputError
from distilray.pretraining_data.corpus_reader import Corpus
from distilray.pretraining_data.encoded_chunks import (
    BYTES_PER_TOKEN,
    TOKENS_PER_WORD,
    EncodingChunk,
    chunk_counts_file,
    encode_chunk,
    is_heldout,
    plan_buckets,
    plan_encoding_chunks,
    written_splits,
)
from distilray.pretraining_data.examples import ExampleBuilder
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.shard_writer import Buckets, ShardGroup, plan_shard_groups, write_shard_group
from distilray.pretraining_data.shards import SHARDS_FOLDER, TOKEN_COUNTS_FILE
from distilray.pretraining_data.token_ids import check_tokenizer, sample_sentences
from distilray.pretraining_data.tokenizer import TOKENIZER_FILE, read_tokenizer, tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.job import Outcome, Quantity, estimated_wall_time
from distilray.runtime.pieces import CompletedPieces, run_pieces
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session

_MB = 1 << 20
# Measured on one core of a 2-core machine with one copy of each document.
_TOKENS_PER_CORE_S = 500_000

JsonObject = dict[str, Any]


def plan_encoding(config: EncodeCorpusConfig) -> dict[str, object]:
    """Validate the inputs of `encode_corpus` and return its plan.

    Raises:
        InputError: an input is missing, empty or invalid, or a split has too few documents.
    """
    corpus = Corpus.open(config.corpus_dir)
    for split in written_splits(config):
        _check_documents(config, corpus, split)
    tokenizer_json = read_tokenizer(resolve_sample(config.tokenizer_dir))
    vocabulary = vocabulary_of(tokenizer_json)
    sample, whole_words = sample_sentences(corpus), config.masking.whole_words
    check_tokenizer(config.tokenizer_dir, sample, tokenizer_json, vocabulary, whole_words=whole_words)
    corpus_tokens = corpus.words * TOKENS_PER_WORD
    tokens = int(corpus_tokens * config.dupe_factor)
    chunks = sum(1 for _ in plan_encoding_chunks(corpus, chunk_bytes=_chunk_bytes(config)))
    examples, size = int(tokens / config.max_seq_length * 1.2), int(tokens * BYTES_PER_TOKEN)
    masks = "drawn in every epoch" if config.masking.dynamic else "drawn once"
    dropped = ", without those of which half is unknown" if config.mode == "paper" else ""
    return {
        "corpus": f"{config.corpus_dir}: {corpus.documents:,} documents, {corpus.words:,} words, {chunks:,} chunks",
        "vocabulary": f"{vocabulary.size:,} ids",
        "tokens": f"about {tokens:,} in {config.dupe_factor} copies",
        "examples": Quantity(
            f"mode {config.mode}, about {examples:,} of at most {config.max_seq_length} tokens{dropped}, masks {masks}",
            examples,
            "examples",
        ),
        "bytes written": Quantity(f"about {size:,}, and as many in work/ during the run", size, "bytes"),
        "held out": f"{config.heldout_fraction:.1%} of the documents",
        "memory": f"about {_task_megabytes(config):,.0f} MB per core",
        "estimate": estimated_wall_time(
            corpus_tokens / _TOKENS_PER_CORE_S * (1 + 0.3 * config.dupe_factor), config.ray, "on one core"
        ),
    }


def encode_corpus(config: EncodeCorpusConfig, folder: RunFolder) -> Outcome:
    """Write the shards of all splits, the tokenizer and the token counts to the run folder."""
    corpus = Corpus.open(config.corpus_dir)
    tokenizer_json = read_tokenizer(resolve_sample(config.tokenizer_dir))
    vocabulary = vocabulary_of(tokenizer_json)
    storage.make_folder(folder.path(SHARDS_FOLDER))
    storage.write_bytes(folder.path(TOKENIZER_FILE), tokenizer_json.encode())
    chunks = list(plan_encoding_chunks(corpus, chunk_bytes=_chunk_bytes(config)))
    numbers = [chunk.number for chunk in chunks]
    with ray_session(config.ray):
        _encode(chunks, config, tokenizer_json, plan_buckets(corpus, config))
        token_counts = _token_counts(folder.uri, numbers, vocabulary.size)
        encoded = CompletedPieces(folder.uri, "chunks")
        buckets = {split: Buckets.of(split, encoded.records(numbers)) for split in written_splits(config)}
        rows = {split: int(split_buckets.starts[-1]) for split, split_buckets in buckets.items()}
        for split, examples in rows.items():
            if not examples:
                raise InputError(
                    f"{config.corpus_dir}: no examples in split '{split}': its documents have no text, are short or "
                    "mostly unknown; use another corpus or tokenizer"
                )
        masker = Masker(vocabulary, config.masking, config.seed, token_counts)
        groups = plan_shard_groups(rows, rows_per_shard=config.rows_per_shard)
        outputs: JsonObject = {}
        statistics: dict[str, Counter[str]] = {split: Counter() for split in rows}
        for written in _write_groups(groups, config, masker, buckets):
            outputs.update(written["outputs"])
            statistics[written["split"]].update(written["statistics"])
    for record in encoded.records(numbers):
        for split, counter in statistics.items():
            counter.update(record[split]["counts"])
    folder.remove_leftovers(SHARDS_FOLDER, outputs)
    outputs |= folder.describe_outputs((TOKENIZER_FILE, TOKEN_COUNTS_FILE))
    storage.remove_folder(folder.path("work"))
    counts = {split: _split_counts(counter, len(buckets[split].rows[0])) for split, counter in statistics.items()}
    return Outcome(_summary(config, counts), {"tokenizer_hash": tokenizer_hash(tokenizer_json), **counts}, outputs)


def _chunk_bytes(config: EncodeCorpusConfig) -> int:
    return max(1, int(config.chunk_mb * _MB))


def _task_megabytes(config: EncodeCorpusConfig) -> float:
    """Estimate the memory of a task: tokens and plans of a chunk in phase one, a bucket and a shard in phase two."""
    chunk = config.chunk_mb * (20 + 2 * config.dupe_factor)
    shard = 6 * 32 + 3 * config.rows_per_shard * config.max_seq_length * BYTES_PER_TOKEN / _MB
    return 200 + max(chunk, shard)


def _check_documents(config: EncodeCorpusConfig, corpus: Corpus, split: str) -> None:
    """Check that a split has a document, or two if some segments B come from another document."""
    heldout = sum(
        int(is_heldout(np.arange(start, min(start + _MB, corpus.documents)), config).sum())
        for start in range(0, corpus.documents, _MB)
    )
    documents = heldout if split == "heldout" else corpus.documents - heldout
    needed = 2 if config.mode == "card" and config.random_next_probability else 1
    if documents < needed:
        reason = ", and segment B comes from another document" if needed > 1 else ""
        raise InputError(
            f"{config.corpus_dir}: {documents} document(s) in split '{split}'{reason}; use a larger corpus or another "
            "heldout_fraction"
        )


def _encode(
    chunks: Sequence[EncodingChunk], config: EncodeCorpusConfig, tokenizer_json: str, bucket_counts: Mapping[str, int]
) -> None:
    run_pieces(
        [asdict(chunk) for chunk in chunks],
        functools.partial(
            _encode_task, config=config, tokenizer=ray.put(tokenizer_json), bucket_counts=dict(bucket_counts)
        ),
        CompletedPieces(config.run_dir, "chunks"),
        job="encode_corpus",
        label="encode_corpus: documents",
        unit="bytes",
        size=lambda item: int(item["stored_bytes"]),
        count_key="examples",
    )


def _encode_task(
    item: JsonObject, *, config: EncodeCorpusConfig, tokenizer: Any, bucket_counts: dict[str, int]
) -> JsonObject:
    return encode_chunk(EncodingChunk(**item), config, ray.get(tokenizer), config.run_dir, buckets=bucket_counts)


def _write_groups(
    groups: Sequence[ShardGroup], config: EncodeCorpusConfig, masker: Masker, buckets: Mapping[str, Buckets]
) -> Iterator[JsonObject]:
    return run_pieces(
        [asdict(group) for group in groups],
        functools.partial(_write_group_task, config=config, shared=ray.put((dict(buckets), masker))),
        CompletedPieces(config.run_dir, "groups"),
        job="encode_corpus",
        label="encode_corpus: shards",
        unit="examples",
        size=lambda item: int(item["edges"][-1] - item["edges"][0]),
    )


def _write_group_task(item: JsonObject, *, config: EncodeCorpusConfig, shared: Any) -> JsonObject:
    buckets, masker = ray.get(shared)
    group = ShardGroup(item["number"], item["split"], tuple(item["edges"]))
    # Held-out masks are static, so that all evaluations are comparable.
    static = group.split == "heldout" or not config.masking.dynamic
    builder = ExampleBuilder(config, masker.vocabulary, masker if static else None)
    dynamic_masker = None if static else masker
    return write_shard_group(group, buckets[group.split], builder, config.run_dir, dynamic_masker=dynamic_masker)


def _token_counts(folder: str, chunks: Sequence[int], vocabulary_size: int) -> NDArray[np.int64]:
    """Sum up the token counts of all chunks and save them. They weight dynamic masks."""
    uri = storage.join(folder, TOKEN_COUNTS_FILE)
    if storage.exists(uri):  # the counts of the chunks may already be deleted
        return np.array(json.loads(storage.read_bytes(uri))["counts"], np.int64)
    counts = np.zeros(vocabulary_size, np.int64)
    for chunk in chunks:
        counts += np.frombuffer(storage.read_bytes(chunk_counts_file(folder, chunk)), "<i8")
    storage.write_bytes(uri, json.dumps({"counts": counts.tolist()}).encode())
    return counts


def _split_counts(counter: Counter[str], buckets: int) -> JsonObject:
    """Return the counts of a split for the manifest, with the measured shares that the recipe sets as targets."""
    examples, predicted = counter["examples"], max(1, counter["predicted"])
    return {
        **dict(sorted(counter.items())),
        "random_next_share": round(counter["random_next"] / examples, 6),
        "predicted_share": round(counter["predicted"] / counter["tokens"], 6),
        "mask_share": round(counter["predicted_as_mask"] / predicted, 6),
        "tokens_per_example": round(counter["tokens"] / examples, 3),
        # Examples per bucket; random segments B are drawn from the same bucket.
        "random_pool_examples": examples // buckets,
    }


def _summary(config: EncodeCorpusConfig, counts: Mapping[str, JsonObject]) -> str:
    train = counts["train"]
    heldout = counts.get("heldout", {}).get("examples", 0)
    clauses = [
        f"{train['examples']:,} train and {heldout:,} held-out examples, {train['tokens']:,} train tokens, "
        f"{train['trimmed_tokens'] / train['document_tokens'] / config.dupe_factor:.1%} trimmed"
    ]
    if unknown := train["dropped_unknown"]:
        clauses.append(f"{unknown:,} examples dropped because half of their tokens are unknown")
    if config.mode == "card":
        clauses.append(f"{train['random_next_share']:.1%} random next")
        single = train["single_segment_copies"] // config.dupe_factor
        if single and config.single_sentence_documents == "random":
            clauses.append(f"including those of {single:,} documents with a single sentence")
    return ", ".join(clauses)
