"""Construction of examples: random segments B, trimming, special tokens and masks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.errors import InputError
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.segment_pairs import front_cuts, trimmed_lengths
from distilray.pretraining_data.token_ids import Int64Array, gather_slices, list_array
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.pretraining_data.unpaired_examples import DOCUMENT_SHIFT
from distilray.runtime.seeding import UInt64Array, hash_integers
from distilray.schemas import EXAMPLES

_DONORS, _CUT_A, _CUT_B = 2, 3, 4  # random streams


@dataclass(frozen=True)
class ExampleBuilder:
    """Turns the unpaired examples of a bucket, a uniform sample of the corpus, into rows of schema `EXAMPLES`.

    The B of a random pair is the planned B of an example from another document in the same bucket: one of the same
    length, else the next longer one, and any one for documents of a single sentence. Both kinds of pairs are then
    trimmed alike, so that lengths and cuts do not reveal the kind of a pair.

    Attributes:
        masker: draws static masks; None if masks are drawn when the examples are read.
    """

    config: EncodeCorpusConfig
    vocabulary: Vocabulary
    masker: Masker | None

    def build(self, unpaired: pa.Table) -> pa.Table:
        """Return the examples, in the order of the unpaired ones.

        Raises:
            InputError: the bucket has a random pair but contains only one document.
        """
        example_ids = unpaired["example_id"].to_numpy()
        documents = example_ids >> DOCUMENT_SHIFT
        text = unpaired["text"].combine_chunks()
        offsets = text.offsets.to_numpy().astype(np.int64)
        a_start, a_tokens, room = offsets[:-1], *(_integers(unpaired, name) for name in ("a_tokens", "room"))
        b_start, b_tokens = a_start + a_tokens, np.diff(offsets) - a_tokens
        is_random, document_b = unpaired["is_random_next"].to_numpy(), documents.copy()
        if is_random.any():
            donors = self._donors(example_ids, documents, a_tokens, b_tokens, is_random)
            has_b = b_tokens[donors] > 0  # False for the only sentence of a document
            b_start[is_random] = np.where(has_b, b_start[donors], a_start[donors])
            b_tokens[is_random] = np.where(has_b, b_tokens[donors], a_tokens[donors])
            document_b[is_random] = documents[donors]
        kept_a, kept_b = trimmed_lengths(a_tokens, b_tokens, room)
        a_start = a_start + front_cuts(self._hash(_CUT_A, example_ids), a_tokens - kept_a)
        b_start = b_start + front_cuts(self._hash(_CUT_B, example_ids), b_tokens - kept_b)
        ids, lengths, segment_b_start = self._frame(text.values.to_numpy(), a_start, kept_a, b_start, kept_b)
        columns = {
            "example_id": example_ids,
            "shuffle_key": unpaired["shuffle_key"].to_numpy(),
            "segment_b_start": segment_b_start,
            "is_random_next": is_random,
            "trimmed": a_tokens - kept_a + np.where(is_random, 0, b_tokens - kept_b),
            "document_a": documents,
            "document_b": document_b,
        }
        return self._table(columns, ids, lengths)

    def _hash(self, stream: int, example_ids: Int64Array) -> UInt64Array:
        return hash_integers(self.config.seed, stream, example_ids)

    def _donors(
        self,
        example_ids: Int64Array,
        documents: Int64Array,
        a_tokens: Int64Array,
        b_tokens: Int64Array,
        is_random: NDArray[np.bool_],
    ) -> Int64Array:
        """Return the row whose B each random pair uses; `a_tokens` and `b_tokens` are the planned lengths."""
        for donors in (np.flatnonzero(b_tokens), np.arange(len(documents))):
            if len(donors) and (documents[donors] != documents[donors[0]]).any():
                break
        else:
            raise InputError(
                f"{self.config.corpus_dir}: segments B must come from other documents, but only one document has text; "
                "use a larger corpus, another heldout_fraction, or random_next_probability=0"
            )
        hashed, lengths = self._hash(_DONORS, example_ids), np.where(b_tokens > 0, b_tokens, a_tokens)
        donors = donors[np.lexsort((hashed[donors], lengths[donors]))]
        wanted = b_tokens[is_random]
        low, high = (np.searchsorted(lengths[donors], wanted, side=side) for side in ("left", "right"))
        high[wanted == 0] = len(donors)  # the only sentence of a document
        drawn = hashed[is_random] % np.maximum(high - low, 1).astype(np.uint64)
        position = np.minimum(low + drawn.astype(np.int64), len(donors) - 1)
        owners = documents[donors]
        is_own = owners[position] == documents[is_random]
        return donors[np.where(is_own, _nearest_other(owners, position, low, high), position)]

    def _frame(
        self,
        text: NDArray[np.uint16],
        a_start: Int64Array,
        a_tokens: Int64Array,
        b_start: Int64Array,
        b_tokens: Int64Array,
    ) -> tuple[NDArray[np.uint16], Int64Array, NDArray[np.uint16]]:
        """Return `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` without a B: ids, row lengths, positions of segment B."""
        values = np.concatenate([np.array([self.vocabulary.cls, self.vocabulary.sep], np.uint16), text])
        one, has_b = np.ones_like(a_start), (b_tokens > 0).astype(np.int64)
        starts = np.stack([0 * one, a_start + 2, one, b_start + 2, one], axis=1)
        lengths = np.stack([one, a_tokens, one, b_tokens, has_b], axis=1)
        ids = gather_slices(values, starts.ravel(), lengths.ravel())
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
            "input_ids": list_array(ids, lengths),
            "mask_positions": list_array(positions, counts),
            "mask_labels": list_array(labels, counts),
        }
        arrays = [ragged.get(field.name) or pa.array(columns[field.name], type=field.type) for field in EXAMPLES]
        return pa.Table.from_arrays(arrays, schema=EXAMPLES)


def _integers(unpaired: pa.Table, name: str) -> Int64Array:
    return np.asarray(unpaired[name].to_numpy().astype(np.int64))


def _nearest_other(documents: Int64Array, position: Int64Array, low: Int64Array, high: Int64Array) -> Int64Array:
    """Return the nearest position of another document, in [low, high) if possible, (random pairs,).

    Args:
        documents: (donors,) document of each donor, at least two different ones.
        position, low, high: (random pairs,) positions among the donors.
    """
    starts = np.flatnonzero(np.diff(documents, prepend=-1))  # of blocks with the same document
    block = np.searchsorted(starts, position, side="right")
    after, before = np.append(starts, len(documents))[block], starts[block - 1] - 1
    return np.where((after < high) | (before < 0) | (before < low) & (after < len(documents)), after, before)
