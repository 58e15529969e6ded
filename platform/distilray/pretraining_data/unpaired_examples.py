"""Unpaired examples: planned examples whose B still follows A, without trimming, special tokens and masks.

The unpaired examples of a chunk are sorted by a hash of the example id, which defines the global random order, and
written in buckets, which are ranges of that hash. A bucket collected from all chunks is therefore a uniform sample of
the corpus, and all buckets in order are the corpus in random order.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.pretraining_data.segment_pairs import SPECIAL_TOKENS_PER_PAIR, PairPlan, plan_pairs, plan_windows
from distilray.pretraining_data.token_ids import (
    Int64Array,
    TokenizedDocument,
    TokenizedDocuments,
    gather_slices,
    list_array,
)
from distilray.runtime.seeding import hash_integers

UNPAIRED_EXAMPLES = pa.schema(
    [
        pa.field("example_id", pa.int64(), nullable=False),
        pa.field("shuffle_key", pa.uint64(), nullable=False),
        pa.field("text", pa.list_(pa.uint16()), nullable=False),  # A and the B that follows it, whole sentences
        pa.field("a_tokens", pa.uint32(), nullable=False),
        pa.field("room", pa.uint16(), nullable=False),  # maximum number of tokens of A and B together
        pa.field("is_random_next", pa.bool_(), nullable=False),  # B will be replaced by one from another document
    ]
)
# example_id = document << 32 | copy << 24 | number within the document and copy
DOCUMENT_SHIFT, COPY_SHIFT = 32, 24
_MAX_NUMBER = 1 << COPY_SHIFT
_COUNTED = (
    "documents",
    "document_tokens",
    "reused_tokens",
    "dropped_short",
    "dropped_short_tokens",
    "dropped_unknown",
    "dropped_unknown_tokens",
    "single_segment_copies",
    "dropped_single_segment_tokens",
    "dropped_tail_tokens",
)
_MAX_UNKNOWN_SHARE = 0.5  # of the tokens of an example of mode `paper`, as in the original trainer
_COLUMNS = 6  # columns of `UnpairedExamples._rows`
_PLANS, _ORDER = range(2)  # random streams


@dataclass
class UnpairedExamples:
    """Unpaired examples as positions in the tokens of their documents; text is copied when a bucket is written.

    Attributes:
        unk: id of the unknown token.
        counts: number of documents, and of tokens by outcome; see `add`.
    """

    config: EncodeCorpusConfig
    unk: int
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_COUNTED, 0)))
    _ids: list[NDArray[np.uint16]] = field(default_factory=list)
    _rows: list[Int64Array] = field(default_factory=list)
    _tokens: int = 0

    def add(self, tokenized: TokenizedDocuments) -> None:
        """Plan the examples of a batch of documents.

        Documents and their tokens are counted once; reused and dropped tokens are counted per copy. With the counts of
        `example_statistics`,
        `dupe_factor * document_tokens + reused_tokens = own_tokens + trimmed_tokens + dropped_*_tokens`.
        """
        self.counts["documents"] += len(tokenized.documents)
        self.counts["document_tokens"] += len(tokenized.ids)
        rows = np.array([document.row for document in tokenized.documents], np.int64)
        copies = np.arange(self.config.dupe_factor)
        seeds = hash_integers(self.config.seed, _PLANS, rows[:, None], copies[None, :]).tolist()
        examples: list[tuple[int, ...]] = []
        for document, copy_seeds in zip(tokenized.documents, seeds, strict=True):
            for copy, seed in enumerate(copy_seeds):
                first_id = document.row << DOCUMENT_SHIFT | copy << COPY_SHIFT
                plans = self._plan_copy(document, Random(seed))
                examples += [
                    (
                        first_id | number,
                        self._tokens + document.start + plan.start,
                        plan.a_tokens,
                        plan.b_tokens,
                        plan.room,
                        plan.is_random_next,
                    )
                    for number, plan in enumerate(plans)
                ]
        if examples:
            self._rows.append(self._without_unknown(np.array(examples, dtype=np.int64), tokenized.ids))
        self._ids.append(tokenized.ids)
        self._tokens += len(tokenized.ids)

    def _plan_copy(self, document: TokenizedDocument, rng: Random) -> list[PairPlan]:
        """Return the plans of one copy of a document, without those that are too short."""
        config, kept, unused = self.config, [], document.ends[-1]
        for plan in self._plans(document, rng):
            own = plan.a_tokens + (0 if plan.is_random_next else plan.b_tokens)
            unused -= own - plan.reused
            self.counts["reused_tokens"] += plan.reused
            self.counts["single_segment_copies"] += plan.is_single_sentence
            if plan.is_single_sentence and config.single_sentence_documents == "drop":
                self.counts["dropped_single_segment_tokens"] += own
            elif (
                min(plan.a_tokens + plan.b_tokens, plan.room) + special_token_count(config) < config.min_example_tokens
            ):
                self.counts["dropped_short"] += 1
                self.counts["dropped_short_tokens"] += own
            else:
                kept.append(plan)
        self.counts["dropped_tail_tokens"] += unused
        assert len(kept) <= _MAX_NUMBER, "an example_id has 24 bits for the examples of a document"
        return kept

    def _without_unknown(self, rows: Int64Array, ids: NDArray[np.uint16]) -> Int64Array:
        """Drop the examples of mode `paper` of which half or more is unknown, counting special tokens.

        Args:
            rows: (examples, columns) examples of the newest batch of documents.
            ids: (tokens,) the batch.
        """
        if self.config.mode != "paper":
            return rows
        unknown = np.concatenate([[0], np.cumsum(ids == self.unk)])
        start, tokens = rows[:, 1] - self._tokens, rows[:, 2] + rows[:, 3]
        shares = (unknown[start + tokens] - unknown[start]) / (tokens + special_token_count(self.config))
        is_dropped = shares >= _MAX_UNKNOWN_SHARE
        self.counts["dropped_unknown"] += int(is_dropped.sum())
        self.counts["dropped_unknown_tokens"] += int(tokens[is_dropped].sum())
        return rows[~is_dropped]

    def _plans(self, document: TokenizedDocument, rng: Random) -> Iterator[PairPlan]:
        config = self.config
        max_tokens = config.max_seq_length - special_token_count(config)
        if config.mode == "paper":
            return plan_windows(document.ends[-1], rng, max_tokens=max_tokens, short_seq_prob=config.short_seq_prob)
        return plan_pairs(
            document.ends,
            rng,
            max_tokens=max_tokens,
            short_seq_prob=config.short_seq_prob,
            random_next_probability=config.random_next_probability,
        )

    def write(self, write: Callable[[pa.Buffer], object], *, buckets: int) -> tuple[list[int], list[int]]:
        """Write each non-empty bucket as one Arrow message, in the global order.

        Args:
            write: receives the messages in order.
            buckets: number of buckets, a power of two.

        Returns:
            The number of rows and the number of bytes of each bucket.
        """
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, _COLUMNS), np.int64)
        ids = np.concatenate(self._ids) if self._ids else np.empty(0, np.uint16)
        keys = hash_integers(self.config.seed, _ORDER, rows[:, 0])
        order = np.lexsort((rows[:, 0], keys))
        rows, keys = rows[order], keys[order]
        edges = np.searchsorted(bucket_of(keys, buckets), np.arange(buckets + 1))
        sizes = [0] * buckets
        for bucket, (start, stop) in enumerate(pairwise(edges)):
            if start < stop:
                message = _batch(rows[start:stop], keys[start:stop], ids).serialize()
                write(message)
                sizes[bucket] = message.size
        return np.diff(edges).tolist(), sizes


def special_token_count(config: EncodeCorpusConfig) -> int:
    """Return the number of special tokens of an example: `[CLS] A [SEP] B [SEP]`, or `[CLS] text [SEP]`."""
    return SPECIAL_TOKENS_PER_PAIR if config.mode == "card" else SPECIAL_TOKENS_PER_PAIR - 1


def bucket_of(keys: NDArray[np.uint64], buckets: int) -> Int64Array:
    """Return the bucket of each key, its highest bits."""
    bits = buckets.bit_length() - 1
    assert buckets == 1 << bits
    return (keys >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(keys), np.int64)


def read_unpaired(messages: Sequence[bytes]) -> pa.Table:
    """Return a bucket in the global order, from its messages of all chunks; empty ones are skipped."""
    batches = [pa.ipc.read_record_batch(pa.py_buffer(message), UNPAIRED_EXAMPLES) for message in messages if message]
    table = pa.Table.from_batches(batches, schema=UNPAIRED_EXAMPLES).combine_chunks()
    order = np.lexsort((table["example_id"].to_numpy(), table["shuffle_key"].to_numpy()))
    return table.take(pa.array(order)).combine_chunks()


def _batch(rows: Int64Array, keys: NDArray[np.uint64], ids: NDArray[np.uint16]) -> pa.RecordBatch:
    example_id, start, a_tokens, b_tokens, room, is_random_next = rows.T
    tokens = a_tokens + b_tokens
    text = list_array(gather_slices(ids, start, tokens), tokens)
    columns = [example_id, keys, text, a_tokens, room, is_random_next.astype(bool)]
    arrays = [
        column if isinstance(column, pa.ListArray) else pa.array(column).cast(field.type)
        for column, field in zip(columns, UNPAIRED_EXAMPLES, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=UNPAIRED_EXAMPLES)
