"""Documents to masked examples: tokenise, pair, frame with special tokens, mask. Pure: no Ray, no files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.segment_pairs import Document, SegmentPair, SegmentPairBuilder
from distilray.pretraining_data.tokenizer import Vocabulary, build_tokenizer, vocabulary_of
from distilray.runtime.seeding import generator, hash_integers
from distilray.schemas import EXAMPLES

_PAIRS, _MASKS, _ORDER = range(3)  # what a seed is used for
MAX_PAIRS = 2**16  # of one document and copy: example_id has 16 bits for it


def encode_documents(rows: Iterable[int], sentences: Sequence[Sequence[str]], tokenizer_json: str) -> list[Document]:
    """Documents as token ids, without special tokens; sentences and documents that leave no token are left out."""
    tokenizer = build_tokenizer(tokenizer_json)
    flat = [sentence for document in sentences for sentence in document]
    ids = [
        np.array(encoding.ids, dtype=np.uint16)
        for encoding in tokenizer.encode_batch_fast(flat, add_special_tokens=False)
    ]
    documents, start = [], 0
    for row, document in zip(rows, sentences, strict=True):
        kept = [part for part in ids[start : start + len(document)] if len(part)]
        start += len(document)
        if kept:
            documents.append(Document(row, kept))
    return documents


@dataclass(frozen=True)
class ExampleEncoder:
    """Turns documents into rows of the schema `EXAMPLES`."""

    config: EncodeCorpusConfig
    tokenizer_json: str
    pool: Sequence[Document]

    def encode(self, documents: Sequence[Document]) -> pa.Table:
        """The examples of some documents: a function of config, seed, pool and these documents alone."""
        config = self.config
        vocabulary = vocabulary_of(self.tokenizer_json)
        builder = SegmentPairBuilder(
            max_seq_length=config.max_seq_length,
            short_seq_prob=config.short_seq_prob,
            random_next_probability=config.random_next_probability,
            pool=self.pool,
        )
        pairs: list[SegmentPair] = []
        example_ids: list[int] = []
        for document in documents:
            for copy in range(config.dupe_factor):
                rng = generator(config.seed, _PAIRS, document.row, copy)
                for number, pair in enumerate(builder.pairs(document, rng)):
                    assert number < MAX_PAIRS
                    pairs.append(pair)
                    example_ids.append(document.row << 32 | copy << 24 | number)
        if not pairs:
            return EXAMPLES.empty_table()
        return self._table(pairs, np.array(example_ids, dtype=np.int64), vocabulary)

    def _table(self, pairs: Sequence[SegmentPair], ids: NDArray[np.int64], vocabulary: Vocabulary) -> pa.Table:
        cls, sep = (np.array([token], dtype=np.uint16) for token in (vocabulary.cls, vocabulary.sep))
        flat = np.concatenate([part for pair in pairs for part in (cls, pair.a, sep, pair.b, sep)])
        segment_b_start = np.array([len(pair.a) + 2 for pair in pairs], dtype=np.uint16)
        lengths = segment_b_start + np.array([len(pair.b) + 1 for pair in pairs], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        masked = Masker(vocabulary, self.config.masking, self.config.seed).mask(
            flat, offsets=offsets, segment_b_start=segment_b_start, example_ids=ids
        )
        columns: dict[str, Any] = {
            "example_id": ids,
            "shuffle_key": hash_integers(self.config.seed, _ORDER, ids),
            "input_ids": _lists(masked.input_ids, offsets),
            "segment_b_start": segment_b_start,
            "mask_positions": _lists(masked.mask_positions, masked.mask_offsets),
            "mask_labels": _lists(masked.mask_labels, masked.mask_offsets),
            "is_random_next": [pair.is_random_next for pair in pairs],
            "trimmed": np.array([pair.trimmed for pair in pairs], dtype=np.uint32),
            "document_a": np.array([pair.document_a for pair in pairs], dtype=np.int64),
            "document_b": np.array([pair.document_b for pair in pairs], dtype=np.int64),
        }
        arrays = [pa.array(columns[field.name], type=field.type) for field in EXAMPLES]
        return pa.Table.from_arrays(arrays, schema=EXAMPLES)


def _lists(values: NDArray[np.uint16], offsets: NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def example_statistics(table: pa.Table, vocabulary: Vocabulary) -> dict[str, int]:
    """What was realised in some examples: pairs, tokens, masks by kind, trimmed tokens."""
    batch = table.combine_chunks()
    ids = batch.column("input_ids").combine_chunks()
    positions = batch.column("mask_positions").combine_chunks()
    starts = ids.offsets.to_numpy()[:-1]
    counts = np.diff(positions.offsets.to_numpy())
    where = np.repeat(starts, counts) + positions.flatten().to_numpy()
    seen = ids.values.to_numpy()[where]
    labels = batch.column("mask_labels").combine_chunks().flatten().to_numpy()
    is_mask, is_kept = seen == vocabulary.mask, seen == labels
    return {
        "examples": len(batch),
        "tokens": int(np.diff(ids.offsets.to_numpy()).sum()),
        "random_next": int(np.asarray(batch.column("is_random_next")).sum()),
        "predicted": len(labels),
        "predicted_as_mask": int(is_mask.sum()),
        "predicted_as_kept": int((is_kept & ~is_mask).sum()),
        "predicted_as_random": int((~is_kept & ~is_mask).sum()),
        "trimmed_tokens": int(np.asarray(batch.column("trimmed")).sum()),
    }
