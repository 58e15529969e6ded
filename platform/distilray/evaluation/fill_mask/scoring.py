"""Models over windows: ranks and losses of the true tokens at the masks, all at once and from left to right.

*Joint*: every mask of a window is predicted in one pass, and an answer of several word pieces has the sum of the log
probabilities of its pieces. *Left to right*: the pieces of an answer are predicted one after the other, each with the
true pieces before it in place and masks behind it (and at all other answers). Greedy decoding from left to right gives
the answer exactly when each of these predictions is the true piece, since it meets no other prefix until it errs.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask.windows import Ints, Windows
from distilray.evaluation.fill_mask_metrics import true_token_losses, true_token_ranks
from distilray.inference.encoding import length_sorted_batches
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode
from distilray.models.precision import autocast, compute_dtype
from distilray.models.sources import localize
from distilray.pretraining_data.batches import padded_width

# Masks that go through the head at once: bounds the (masks, vocabulary) logits to some 30 MB.
_MASKS_AT_ONCE = 256


@dataclass(frozen=True)
class Batch:
    """What a model reads at once, and where it predicts.

    Attributes:
        input_ids, attention_mask, token_type_ids: (batch, length).
        index: (masks,) places in the flattened (batch x length).
        labels: (masks,) the true ids there.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    index: Tensor
    labels: Tensor


@dataclass(frozen=True)
class AnswerScores:
    """What one model says of windows.

    Attributes:
        ranks: (answers,) of the worst piece, all pieces predicted at once.
        losses: (answers,) negative log probabilities, summed over the pieces.
        left_to_right_ranks, left_to_right_losses: the same from left to right; joint for one-token answers.
        best: (pieces,) the most probable token in the joint pass.
    """

    ranks: Ints
    losses: NDArray[np.float64]
    left_to_right_ranks: Ints
    left_to_right_losses: NDArray[np.float64]
    best: Ints


def model_dirs(config: EvaluateFillMaskConfig) -> dict[str, str]:
    """The local folders of the models, by their part: `teacher` if there is one, and `student`."""
    named = {"teacher": config.teacher_dir, "student": config.student_dir}
    return {name: localize(source) for name, source in named.items() if source is not None}


@torch.inference_mode()
def predict_masks(model: Any, batch: Batch, precision: str) -> tuple[Ints, NDArray[np.float64], Ints]:
    """(masks,) rank and loss of the true token, and the best token; only the masks go through the vocabulary head."""
    device = next(model.parameters()).device
    dtype = compute_dtype(precision, device)
    types = None if batch.token_type_ids is None else batch.token_type_ids.to(device)
    with autocast(device, dtype):
        hidden = encode(model, batch.input_ids.to(device), batch.attention_mask.to(device), types)
    at_masks = hidden.flatten(0, 1)[batch.index.to(device)].float()  # in fp32: logits rounded to bf16 would tie
    labels = batch.labels.to(device)
    ranks, losses, best = [], [], []
    for start in range(0, len(labels), _MASKS_AT_ONCE):
        logits = vocabulary_logits(model, at_masks[start : start + _MASKS_AT_ONCE])
        true = labels[start : start + _MASKS_AT_ONCE]
        ranks.append(true_token_ranks(logits, true))
        losses.append(true_token_losses(logits, true))
        best.append(logits.argmax(dim=1))
    return (
        torch.cat(ranks).cpu().numpy(),
        torch.cat(losses).double().cpu().numpy(),
        torch.cat(best).cpu().numpy(),
    )


def score_windows(
    model: Any,
    windows: Windows,
    *,
    pad_id: int,
    precision: str,
    max_rows: int,
    max_tokens: int,
    left_to_right: bool,
) -> AnswerScores:
    """What a model says of windows; texts of like length share a batch.

    Args:
        model: from `load_masked_lm`, on its device.
        windows: from `encode_examples`.
        pad_id: fills up the rows of a batch.
        precision: auto, bf16 or fp32.
        max_rows: windows of a batch.
        max_tokens: tokens of a batch, padding included.
        left_to_right: also predicts answers of several pieces one piece after the other.
    """
    queries = _Queries(windows, left_to_right=left_to_right, pad_id=pad_id)
    pieces = len(windows.labels)
    # The slots of the joint pass, and behind them those from left to right.
    ranks, best = np.zeros(2 * pieces, np.int64), np.zeros(2 * pieces, np.int64)
    losses = np.zeros(2 * pieces)
    longest = int(model.config.max_position_embeddings)
    for rows in length_sorted_batches(queries.lengths.tolist(), max_rows=max_rows, max_tokens=max_tokens):
        batch, slots = queries.batch(rows, longest=longest)
        ranks[slots], losses[slots], best[slots] = predict_masks(model, batch, precision)
    return _answered(windows, queries.slots_from_left, ranks, losses, best[:pieces])


class _Queries:
    """The passes that windows need: one for each window, and one for each further piece of an answer."""

    def __init__(self, windows: Windows, *, left_to_right: bool, pad_id: int) -> None:
        self._windows, self._pad_id = windows, pad_id
        further = (windows.pieces - 1) * int(left_to_right)
        self._answers = np.repeat(np.arange(len(further)), further)
        starts = further.cumsum() - further
        self._shown = np.arange(len(self._answers)) - starts[self._answers] + 1  # true pieces that are in place
        self.lengths = np.concatenate([windows.lengths, windows.lengths[windows.window[self._answers]]])
        self._first_answer = np.searchsorted(windows.window, np.arange(len(windows.lengths) + 1))
        # (pieces,) where each piece has its prediction from left to right: the first one that of the joint pass.
        self.slots_from_left = np.arange(len(windows.labels))
        own = windows.bounds[self._answers] + self._shown
        self.slots_from_left[own] += len(windows.labels)

    def batch(self, rows: Sequence[int], *, longest: int) -> tuple[Batch, Ints]:
        """The queries of some rows, and the slots of their predictions."""
        width = min(padded_width(int(self.lengths[list(rows)].max())), longest)
        input_ids = np.full((len(rows), width), self._pad_id, np.int64)
        index: list[NDArray[np.int64]] = []
        slots: list[NDArray[np.int64]] = []
        for place, row in enumerate(rows):
            for slot, position in self._query(row, input_ids[place]):
                slots.append(slot)
                index.append(position + place * width)
        found = np.concatenate(slots)
        attention = np.arange(width) < self.lengths[list(rows)][:, None]
        labels = self._windows.labels[found % len(self._windows.labels)]
        tensors = (input_ids, attention.astype(np.int64), np.concatenate(index), labels)
        ids, mask, places, true = (torch.from_numpy(array) for array in tensors)
        return Batch(ids, mask, None, places, true), found

    def _query(self, row: int, into: NDArray[np.int64]) -> Iterator[tuple[Ints, Ints]]:
        """Writes the ids of a query; gives slots and positions of what is asked."""
        windows, count = self._windows, len(self._windows.lengths)
        window = row if row < count else int(windows.window[self._answers[row - count]])
        ids = windows.ids[windows.offsets[window] : windows.offsets[window + 1]]
        into[: len(ids)] = ids
        if row < count:
            for answer in range(self._first_answer[window], self._first_answer[window + 1]):
                slots = np.arange(windows.bounds[answer], windows.bounds[answer + 1])
                yield slots, slots - windows.bounds[answer] + windows.start[answer]
            return
        answer, shown = self._answers[row - count], self._shown[row - count]
        start, first = windows.start[answer], windows.bounds[answer]
        into[start : start + shown] = windows.labels[first : first + shown]
        yield np.array([first + shown + len(windows.labels)]), np.array([start + shown])


def _answered(windows: Windows, left: Ints, ranks: Ints, losses: NDArray[np.float64], best: Ints) -> AnswerScores:
    pieces = len(best)
    if not pieces:
        nothing, none = np.zeros(0, np.int64), np.zeros(0)
        return AnswerScores(nothing, none, nothing, none, nothing)
    starts = windows.bounds[:-1]
    return AnswerScores(
        ranks=np.maximum.reduceat(ranks[:pieces], starts),
        losses=np.add.reduceat(losses[:pieces], starts),
        left_to_right_ranks=np.maximum.reduceat(ranks[left], starts),
        left_to_right_losses=np.add.reduceat(losses[left], starts),
        best=best,
    )


def single_batches(windows: Windows, count: int) -> Iterator[Batch]:
    """The first windows, each a batch of its own without padding."""
    queries = _Queries(windows, left_to_right=False, pad_id=0)
    for row in range(min(count, len(windows.lengths))):
        yield queries.batch([row], longest=int(windows.lengths[row]))[0]


@torch.inference_mode()
def measure_latencies(model: Any, batches: Sequence[Batch]) -> list[float]:
    """Milliseconds of each batch in fp32, encoder and head at the masks, after one warm-up pass."""
    found = []
    for batch in [*batches[:1], *batches]:
        started = time.perf_counter()
        hidden = encode(model, batch.input_ids, batch.attention_mask, batch.token_type_ids)
        vocabulary_logits(model, hidden.flatten(0, 1)[batch.index])
        found.append((time.perf_counter() - started) * 1e3)
    return found[1:]
