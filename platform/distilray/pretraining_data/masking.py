"""Masking as a pure function of (seed, epoch, example id): the same bits for any worker, batch or order.

The rule is the model card's: of the ordinary tokens of each segment, round(15%) are predicted; the model sees `[MASK]`
for 80% of them, another token for 10%, the token itself for 10%.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.config.pretraining_data import MaskingConfig
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.runtime.seeding import hash_integers, uniform

_WHICH, _ACTION, _TOKEN = range(3)  # what a random number is used for


@dataclass(frozen=True)
class MaskedExamples:
    """Masked examples as flat arrays.

    Attributes:
        input_ids: what the model sees; rows one after the other, as they came in.
        mask_offsets: (rows + 1,) where the mask positions of each row begin.
        mask_positions: position inside the row of each token to predict, ascending.
        mask_labels: the original id there.
    """

    input_ids: NDArray[np.uint16]
    mask_offsets: NDArray[np.int64]
    mask_positions: NDArray[np.uint16]
    mask_labels: NDArray[np.uint16]


@dataclass(frozen=True)
class Masker:
    """The masks of examples.

    Attributes:
        seed: of the recipe.
        token_counts: (vocabulary size,) how often each id occurs in the train documents; needed when
            `config.rare_token_exponent` is above 0.
    """

    vocabulary: Vocabulary
    config: MaskingConfig
    seed: int
    token_counts: NDArray[np.int64] | None = None

    def mask(
        self,
        ids: NDArray[np.uint16],
        *,
        offsets: NDArray[np.int64],
        segment_b_start: NDArray[np.integer],
        example_ids: NDArray[np.int64],
        epochs: NDArray[np.int64] | int = 0,
    ) -> MaskedExamples:
        """Masks a batch of examples.

        Args:
            ids: the ids of all rows, one after the other.
            offsets: (rows + 1,) where each row begins in `ids`.
            segment_b_start: (rows,) position of the first token of segment B inside its row.
            example_ids: (rows,) unique ids of the examples.
            epochs: (rows,) or one for all: 0 for static masks; another number gives other masks of the same examples.
        """
        lengths = np.diff(offsets)
        row = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
        is_special = np.zeros(2**16, dtype=bool)
        is_special[list(self.vocabulary.special)] = True
        candidate = np.flatnonzero(~is_special[ids])
        row, position = row[candidate], position[candidate]
        row_epochs = np.broadcast_to(epochs, len(lengths))

        def draw(purpose: int, where: NDArray[np.int64]) -> NDArray[np.uint64]:
            return hash_integers(self.seed, purpose, row_epochs[row[where]], example_ids[row[where]], position[where])

        everywhere = np.arange(len(candidate))
        chosen = _choose(
            2 * row + (position >= segment_b_start[row]), draw(_WHICH, everywhere), self.config.mlm_probability
        )
        labels = ids[candidate[chosen]]
        action = uniform(draw(_ACTION, chosen))
        masked = action < self.config.mask_share
        replaced = ~masked & (action < self.config.mask_share + self.config.random_share)
        seen = labels.copy()
        seen[masked] = self.vocabulary.mask
        seen[replaced] = _other_token(labels[replaced], draw(_TOKEN, chosen[replaced]), self.vocabulary.drawable)
        masked_ids = ids.copy()
        masked_ids[candidate[chosen]] = seen
        counts = np.bincount(row[chosen], minlength=len(lengths))
        return MaskedExamples(
            input_ids=masked_ids,
            mask_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            mask_positions=position[chosen].astype(np.uint16),
            mask_labels=labels,
        )

    def count(
        self,
        ids: NDArray[np.uint16],
        *,
        offsets: NDArray[np.int64],
        segment_b_start: NDArray[np.integer],
        example_ids: NDArray[np.int64],
        epochs: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.int64]:
        """(rows,) how many tokens `mask` with the same arguments predicts in each row."""
        masked = self.mask(
            ids, offsets=offsets, segment_b_start=segment_b_start, example_ids=example_ids, epochs=epochs
        )
        return np.diff(masked.mask_offsets)


def _choose(segment: NDArray[np.int64], keys: NDArray[np.uint64], probability: float) -> NDArray[np.int64]:
    """Indices of the round(probability x size) members of each segment with the smallest keys, ascending."""
    order = np.lexsort((keys, segment))
    _, first, size = np.unique(segment, return_index=True, return_counts=True)  # `segment` ascends, so do its runs
    rank = np.arange(len(segment)) - np.repeat(first, size)
    wanted = np.floor(probability * size + 0.5).astype(np.int64)
    return np.sort(order[rank < np.repeat(wanted, size)])


def _other_token(
    original: NDArray[np.uint16], keys: NDArray[np.uint64], drawable: NDArray[np.uint16]
) -> NDArray[np.uint16]:
    """A token of `drawable` other than the original, uniformly: the place of the original is skipped."""
    place = np.searchsorted(drawable, original)
    is_drawable = drawable[np.minimum(place, len(drawable) - 1)] == original
    choices = (len(drawable) - is_drawable).astype(np.uint64)
    index = (keys % choices).astype(np.int64)
    return drawable[index + (is_drawable & (index >= place))]
