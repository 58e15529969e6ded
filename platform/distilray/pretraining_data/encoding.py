"""Encodes a corpus into masked Arrow shards in two phases, with Ray Data.

Each part of the corpus is tokenised and cut into examples by one task, which puts them into buckets of the global
random order. Then runs of buckets are completed, masked and published as shards of equal size. A run that was
interrupted does the pieces that are not complete, and results in the same shards. The driver sees counts only.

Check that a tokenizer can be used word by word, as `CachedTokenizer` does.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from tokenizers import Tokenizer

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.config.sample import resolve_sample
from distilray.errors import InputError
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
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
from distilray.pretraining_data.token_ids import CachedTokenizer
from distilray.pretraining_data.tokenizer import (
    TOKENIZER_FILE,
    Vocabulary,
    read_tokenizer,
    tokenizer_hash,
    vocabulary_of,
)
from distilray.runtime import storage
from distilray.runtime.job import Outcome, Quantity, estimated_wall_time
from distilray.runtime.pieces import CompletedPieces, run_pieces
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session

# Ranges of documents; documents and sentences of a range at most.
_SAMPLED_RANGES, _SAMPLED_DOCUMENTS, _SAMPLED_SENTENCES = 8, 32, 250
_SPACED_SENTENCES = 50


def check_tokenizer(config: EncodeCorpusConfig, corpus: Corpus, tokenizer_json: str, vocabulary: Vocabulary) -> None:
    """Compares the ids of a sample of the corpus with the library's own.

    Raises:
        InputError: a text has other ids when it is encoded word by word, as with byte-level BPE and SentencePiece; or
            `masking.whole_words` is set, and the tokenizer does not mark the pieces inside a word with `##`.
    """
    library, sample = Tokenizer.from_str(tokenizer_json), _sample(corpus)
    library.encode_special_tokens = True
    words = CachedTokenizer(Tokenizer.from_str(tokenizer_json))
    # What a sample may miss: tokens that contain a space, and words that more than one space separates.
    added = [token.content for token in library.get_added_tokens_decoder().values() if " " in token.content.strip()]
    spaced = [sentence.replace(" ", "  ") for sentence in sample[:_SPACED_SENTENCES]]
    for text in [*added, *spaced, *sample]:
        encoding = library.encode(text, add_special_tokens=False)
        if words.encode([text])[0].tolist() != encoding.ids:
            raise InputError(
                f"{config.tokenizer_dir}: this tokenizer encodes words with their spaces or neighbours, as byte-level "
                f"BPE and SentencePiece do ('{_shortened(text)}' has other ids word by word), and encode_corpus would "
                "write wrong ids; give a WordPiece tokenizer, such as BERT's"
            )
        if config.masking.whole_words:
            is_inside = np.diff(np.array(encoding.word_ids, float), prepend=-1.0) == 0
            if (is_inside != vocabulary.is_continuation[encoding.ids]).any():
                raise InputError(
                    f"{config.tokenizer_dir}: this tokenizer does not mark the pieces inside a word with '##', which "
                    "masking.whole_words needs; set it to false, or give a WordPiece tokenizer, such as BERT's"
                )


def _sample(corpus: Corpus) -> list[str]:
    """Sentences of documents at evenly spaced positions of the corpus."""
    sentences: list[str] = []
    positions = np.linspace(0, corpus.documents, _SAMPLED_RANGES, endpoint=False).astype(int).tolist()
    first = 0
    for name, rows in corpus.files.items():
        for start in [position - first for position in positions if first <= position < first + rows]:
            groups = read_sentences(storage.join(corpus.folder, name), start, min(start + _SAMPLED_DOCUMENTS, rows))
            sentences += list(chain.from_iterable(chain.from_iterable(groups)))[:_SAMPLED_SENTENCES]
        first += rows
    return sentences


def _shortened(text: str) -> str:
    return " ".join(text[:60].split()[:4])


_MB = 1 << 20
# Measured on one core of a 2-core machine: tokens of documents that become masked examples in a second, one copy.
_TOKENS_PER_CORE_S = 500_000

Values = dict[str, Any]


def plan_encoding(config: EncodeCorpusConfig) -> dict[str, object]:
    """Validates the inputs of `encode_corpus` and says what it would do.

    Raises:
        InputError: an input is missing, empty or not what it should be, or a split has too few documents.
    """
    corpus = Corpus.open(config.corpus_dir)
    for split in written_splits(config):
        _check_documents(config, corpus, split)
    tokenizer_json = read_tokenizer(resolve_sample(config.tokenizer_dir))
    vocabulary = vocabulary_of(tokenizer_json)
    check_tokenizer(config, corpus, tokenizer_json, vocabulary)
    once = corpus.words * TOKENS_PER_WORD
    tokens, parts = (
        int(once * config.dupe_factor),
        sum(1 for _ in plan_encoding_chunks(corpus, chunk_bytes=_part_bytes(config))),
    )
    examples, size = int(tokens / config.max_seq_length * 1.2), int(tokens * BYTES_PER_TOKEN)
    masks = "drawn in every epoch" if config.masking.dynamic else "drawn once"
    return {
        "corpus": f"{config.corpus_dir}: {corpus.documents:,} documents, {corpus.words:,} words, {parts:,} parts",
        "vocabulary": f"{vocabulary.size:,} ids",
        "tokens": f"about {tokens:,} in {config.dupe_factor} copies",
        "examples": Quantity(
            f"mode {config.mode}, about {examples:,} of at most {config.max_seq_length} tokens, masks {masks}",
            examples,
            "examples",
        ),
        "bytes written": Quantity(f"about {size:,}, and as many in work/ while it runs", size, "bytes"),
        "held out": f"{config.heldout_fraction:.1%} of the documents",
        "memory": f"about {_task_megabytes(config):,.0f} MB for each core",
        "estimate": estimated_wall_time(
            once / _TOKENS_PER_CORE_S * (1 + 0.3 * config.dupe_factor), config.ray, "of one core"
        ),
    }


def encode_corpus(config: EncodeCorpusConfig, folder: RunFolder) -> Outcome:
    """Writes the shards of both splits, the tokenizer and the token counts into the run folder."""
    corpus = Corpus.open(config.corpus_dir)
    tokenizer_json = read_tokenizer(resolve_sample(config.tokenizer_dir))
    vocabulary = vocabulary_of(tokenizer_json)
    storage.make_folder(folder.path(SHARDS_FOLDER))
    storage.write_bytes(folder.path(TOKENIZER_FILE), tokenizer_json.encode())
    parts = list(plan_encoding_chunks(corpus, chunk_bytes=_part_bytes(config)))
    numbers = [part.number for part in parts]
    with ray_session(config.ray):
        _encode(parts, config, tokenizer_json, plan_buckets(corpus, config))
        token_counts = _token_counts(folder.uri, numbers, vocabulary.size)
        encoded = CompletedPieces(folder.uri, "parts")
        buckets = {split: Buckets.of(split, encoded.records(numbers)) for split in written_splits(config)}
        rows = {split: int(found.starts[-1]) for split, found in buckets.items()}
        for split, examples in rows.items():
            if not examples:
                raise InputError(
                    f"{config.corpus_dir}: no example in split '{split}': no text in its documents; use another corpus"
                )
        masker = Masker(vocabulary, config.masking, config.seed, token_counts)
        groups = plan_shard_groups(rows, rows_per_shard=config.rows_per_shard)
        outputs: Values = {}
        statistics: dict[str, Counter[str]] = {split: Counter() for split in rows}
        for facts in _publish(groups, config, masker, buckets):
            outputs.update(facts["outputs"])
            statistics[facts["split"]].update(facts["statistics"])
    for record in encoded.records(numbers):
        for split, found in statistics.items():
            found.update(record[split]["counts"])
    folder.remove_strays(SHARDS_FOLDER, outputs)
    outputs |= folder.describe_outputs((TOKENIZER_FILE, TOKEN_COUNTS_FILE))
    storage.remove_folder(folder.path("work"))
    counts = {split: _split_counts(found, len(buckets[split].rows[0])) for split, found in statistics.items()}
    return Outcome(_summary(config, counts), {"tokenizer_hash": tokenizer_hash(tokenizer_json), **counts}, outputs)


def _part_bytes(config: EncodeCorpusConfig) -> int:
    return max(1, int(config.chunk_mb * _MB))


def _task_megabytes(config: EncodeCorpusConfig) -> float:
    """Of the larger of both phases: the tokens and plans of a part, or a bucket and a shard."""
    part = config.chunk_mb * (20 + 2 * config.dupe_factor)
    shard = 6 * 32 + 3 * config.rows_per_shard * config.max_seq_length * BYTES_PER_TOKEN / _MB
    return 200 + max(part, shard)


def _check_documents(config: EncodeCorpusConfig, corpus: Corpus, split: str) -> None:
    """At least one document in a split, and two where segments B of other documents are needed."""
    heldout = sum(
        int(is_heldout(np.arange(at, min(at + _MB, corpus.documents)), config).sum())
        for at in range(0, corpus.documents, _MB)
    )
    documents = heldout if split == "heldout" else corpus.documents - heldout
    needed = 2 if config.mode == "card" and config.random_next_probability else 1
    if documents < needed:
        why = ", and segment B comes from another document" if needed > 1 else ""
        raise InputError(
            f"{config.corpus_dir}: {documents} document(s) in split '{split}'{why}; use a larger corpus or another "
            "heldout_fraction"
        )


def _encode(
    parts: Sequence[EncodingChunk], config: EncodeCorpusConfig, tokenizer_json: str, buckets: Mapping[str, int]
) -> None:
    run_pieces(
        [asdict(part) for part in parts],
        functools.partial(_encode_task, config=config, tokenizer=ray.put(tokenizer_json), buckets=dict(buckets)),
        CompletedPieces(config.run_dir, "parts"),
        job="encode_corpus",
        label="encode_corpus: documents",
        unit="bytes",
        size=lambda item: int(item["stored_bytes"]),
        counted="examples",
    )


def _encode_task(item: Values, *, config: EncodeCorpusConfig, tokenizer: Any, buckets: dict[str, int]) -> Values:
    return encode_chunk(EncodingChunk(**item), config, ray.get(tokenizer), config.run_dir, buckets=buckets)


def _publish(
    groups: Sequence[ShardGroup], config: EncodeCorpusConfig, masker: Masker, buckets: Mapping[str, Buckets]
) -> Iterator[Values]:
    return run_pieces(
        [asdict(group) for group in groups],
        functools.partial(_publish_task, config=config, shared=ray.put((dict(buckets), masker))),
        CompletedPieces(config.run_dir, "groups"),
        job="encode_corpus",
        label="encode_corpus: shards",
        unit="examples",
        size=lambda item: int(item["edges"][-1] - item["edges"][0]),
    )


def _publish_task(item: Values, *, config: EncodeCorpusConfig, shared: Any) -> Values:
    buckets, masker = ray.get(shared)
    group = ShardGroup(item["number"], item["split"], tuple(item["edges"]))
    # Held-out masks never change, so that every evaluation asks the same.
    static = group.split == "heldout" or not config.masking.dynamic
    completion = ExampleBuilder(config, masker.vocabulary, masker if static else None)
    dynamic_masker = None if static else masker
    return write_shard_group(group, buckets[group.split], completion, config.run_dir, dynamic_masker=dynamic_masker)


def _token_counts(folder: str, parts: Sequence[int], vocabulary_size: int) -> NDArray[np.int64]:
    """How often each id occurs in the train documents; written beside the shards, for those who draw masks later."""
    uri = storage.join(folder, TOKEN_COUNTS_FILE)
    if storage.exists(uri):  # the files of work that it is made of may be gone by now
        return np.array(json.loads(storage.read_bytes(uri))["counts"], np.int64)
    counts = np.zeros(vocabulary_size, np.int64)
    for part in parts:
        counts += np.frombuffer(storage.read_bytes(chunk_counts_file(folder, part)), "<i8")
    storage.write_bytes(uri, json.dumps({"counts": counts.tolist()}).encode())
    return counts


def _split_counts(found: Counter[str], buckets: int) -> Values:
    """The counts of a split for the manifest, with the realised shares that recipes ask for."""
    examples, predicted = found["examples"], max(1, found["predicted"])
    return {
        **dict(sorted(found.items())),
        "random_next_share": round(found["random_next"] / examples, 6),
        "predicted_share": round(found["predicted"] / found["tokens"], 6),
        "mask_share": round(found["predicted_as_mask"] / predicted, 6),
        "tokens_per_example": round(found["tokens"] / examples, 3),
        # Segments B of other documents are drawn from a uniform sample of so many examples of the split.
        "random_pool_examples": examples // buckets,
    }


def _summary(config: EncodeCorpusConfig, counts: Mapping[str, Values]) -> str:
    train = counts["train"]
    heldout = counts.get("heldout", {}).get("examples", 0)
    parts = [
        f"{train['examples']:,} train and {heldout:,} held-out examples, {train['tokens']:,} train tokens, "
        f"{train['trimmed_tokens'] / train['document_tokens'] / config.dupe_factor:.1%} trimmed"
    ]
    if config.mode == "card":
        parts.append(f"{train['random_next_share']:.1%} random next")
        alone = train["single_segment_copies"] // config.dupe_factor
        if alone and config.single_sentence_documents == "random":
            parts.append(f"{alone:,} documents of one sentence have no next one and raise that share")
    return ", ".join(parts)
