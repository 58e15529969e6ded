"""Drafts to examples: a segment B for those that lack one, special tokens, and masks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.errors import InputError
from distilray.pretraining_data.encoding.drafts import DOCUMENT_SHIFT
from distilray.pretraining_data.encoding.gathering import Int64Array, gathered, lists
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.runtime.seeding import hash_integers
from distilray.schemas import EXAMPLES

_DONORS = 2  # what a seed is used for


@dataclass(frozen=True)
class Completion:
    """Turns the drafts of one bucket into rows of the schema `EXAMPLES`.

    A missing B is the beginning of the text of another draft in the bucket, of another document. A bucket is a uniform
    sample of the corpus, and the draft is drawn uniformly from those that hold two segments in a row: their text is as
    long as an example may be. Each of them begins with a sentence.

    Attributes:
        masker: None leaves the text as it is, for masks that are drawn when the examples are read.
    """

    config: EncodeCorpusConfig
    vocabulary: Vocabulary
    masker: Masker | None

    def examples(self, drafts: pa.Table) -> pa.Table:
        """The examples, in the order of the drafts.

        Raises:
            InputError: a B is missing, and the bucket holds one document only.
        """
        example_ids = drafts["example_id"].to_numpy()
        documents = example_ids >> DOCUMENT_SHIFT
        text = drafts["text"].combine_chunks()
        offsets = text.offsets.to_numpy().astype(np.int64)
        starts, tokens = offsets[:-1], np.diff(offsets)
        a_from, a_tokens, b_from, b_tokens, room = (
            drafts[name].to_numpy().astype(np.int64) for name in ("a_from", "a_tokens", "b_from", "b_tokens", "room")
        )
        is_random = drafts["is_random_next"].to_numpy()
        b_start, document_b = starts + b_from, documents.copy()
        if is_random.any():
            donors = self._donors(example_ids, documents, is_random)
            b_start[is_random], document_b[is_random] = starts[donors], documents[donors]
            b_tokens[is_random] = np.minimum((room - a_tokens)[is_random], tokens[donors])
        values = text.values.to_numpy()
        ids, lengths, segment_b_start = self._framed(values, starts + a_from, a_tokens, b_start, b_tokens)
        columns = {
            "example_id": example_ids,
            "shuffle_key": drafts["shuffle_key"].to_numpy(),
            "segment_b_start": segment_b_start,
            "is_random_next": is_random,
            "trimmed": drafts["trimmed"].to_numpy(),
            "document_a": documents,
            "document_b": document_b,
        }
        return self._table(columns, ids, lengths)

    def _donors(self, example_ids: Int64Array, documents: Int64Array, is_random: NDArray[np.bool_]) -> Int64Array:
        """For each draft without B, in order, the draft that gives it."""
        for donors in (np.flatnonzero(~is_random), np.arange(len(documents))):
            of = documents[donors]
            if len(donors) and (of != of[0]).any():
                break
        else:
            raise InputError(
                f"{self.config.corpus_dir}: segments B of other documents are needed, and only one document has text "
                "here; use a larger corpus, another heldout_fraction, or random_next_probability=0"
            )
        drawn = hash_integers(self.config.seed, _DONORS, example_ids[is_random]) % np.uint64(len(donors))
        place = drawn.astype(np.int64)
        place = np.where(of[place] == documents[is_random], _next_other(of)[place], place)
        return donors[place]

    def _framed(
        self,
        text: NDArray[np.uint16],
        a_start: Int64Array,
        a_tokens: Int64Array,
        b_start: Int64Array,
        b_tokens: Int64Array,
    ) -> tuple[NDArray[np.uint16], Int64Array, NDArray[np.uint16]]:
        """`[CLS] A [SEP] B [SEP]`, or without a B `[CLS] A [SEP]`: ids, length of each row, place of its segment B."""
        values = np.concatenate([np.array([self.vocabulary.cls, self.vocabulary.sep], np.uint16), text])
        one, has_b = np.ones_like(a_start), (b_tokens > 0).astype(np.int64)
        starts = np.stack([0 * one, a_start + 2, one, b_start + 2, one], axis=1)
        lengths = np.stack([one, a_tokens, one, b_tokens, has_b], axis=1)
        ids = gathered(values, starts.ravel(), lengths.ravel())
        return ids, lengths.sum(axis=1), (a_tokens + 2).astype(np.uint16)

    def _table(self, columns: Mapping[str, object], ids: NDArray[np.uint16], lengths: Int64Array) -> pa.Table:
        positions = labels = np.empty(0, np.uint16)
        counts = np.zeros(len(lengths), np.int64)
        if self.masker is not None:
            masked = self.masker.mask(
                ids,
                offsets=np.concatenate([[0], np.cumsum(lengths)]),
                segment_b_start=np.asarray(columns["segment_b_start"]),
                example_ids=np.asarray(columns["example_id"]),
            )
            ids, positions, labels = masked.input_ids, masked.mask_positions, masked.mask_labels
            counts = np.diff(masked.mask_offsets)
        ragged = {
            "input_ids": lists(ids, lengths),
            "mask_positions": lists(positions, counts),
            "mask_labels": lists(labels, counts),
        }
        arrays = [ragged.get(field.name) or pa.array(columns[field.name], type=field.type) for field in EXAMPLES]
        return pa.Table.from_arrays(arrays, schema=EXAMPLES)


def _next_other(documents: Int64Array) -> Int64Array:
    """For each place the next one, around the end, of another document; there are two documents at least."""
    changes = np.flatnonzero(documents != np.roll(documents, 1))  # places where another document begins
    return changes[np.searchsorted(changes, np.arange(len(documents)), side="right") % len(changes)]
