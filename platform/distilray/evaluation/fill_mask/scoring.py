"""Ranks and losses of the true tokens at masks, in held-out shards and in windows of texts.

In a shard each mask is one token. The answers in texts may have several word pieces, and are scored in two ways.

*Joint*: all masks of a window are predicted in one pass; the log probability of an answer of several word pieces is the
sum over its pieces. *Left to right*: the pieces of an answer are predicted one after another, each with the true pieces
before it and masks after it (and at all other answers). Greedy left-to-right decoding produces the true answer if and
only if each of these predictions is correct, because up to the first error its prefix is the true one.
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
from distilray.models.masked_lm import encode, read_model_config
from distilray.models.precision import autocast, compute_dtype
from distilray.models.sources import localize
from distilray.pretraining_data.batches import Batch as PaddedBatch
from distilray.pretraining_data.batches import collate, heldout_rows, padded_width
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet, check_vocabulary
from distilray.pretraining_data.tokenizer import Vocabulary, read_tokenizer, vocabulary_of
from distilray.runtime.progress import Progress

_HEAD_BATCH = 256  # masks per call of the masked-LM head, which limits the logits to about 30 MB


@dataclass(frozen=True)
class Batch:
    """Model inputs with the positions to predict.

    Attributes:
        input_ids, attention_mask, token_type_ids: (batch, length).
        index: (masks,) positions in the flattened (batch x length) input.
        labels: (masks,) true token ids at these positions.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    index: Tensor
    labels: Tensor


def model_dirs(config: EvaluateFillMaskConfig) -> dict[str, str]:
    """Return the local model folders by name: `teacher`, if configured, and `student`."""
    named = {"teacher": config.teacher_dir, "student": config.student_dir}
    return {name: localize(source) for name, source in named.items() if source is not None}


@torch.inference_mode()
def predict_masks(model: Any, batch: Batch, precision: str) -> tuple[Ints, NDArray[np.float64], Ints]:
    """Return ranks and losses of the true tokens and the most probable tokens, each of shape (masks,).

    The masked-LM head is applied only to the masks.
    """
    device = next(model.parameters()).device
    dtype = compute_dtype(precision, device)
    types = None if batch.token_type_ids is None else batch.token_type_ids.to(device)
    with autocast(device, dtype):
        hidden = encode(model, batch.input_ids.to(device), batch.attention_mask.to(device), types)
    at_masks = hidden.flatten(0, 1)[batch.index.to(device)].float()  # in bf16, rounded logits would often be equal
    labels = batch.labels.to(device)
    ranks, losses, best = [], [], []
    for start in range(0, len(labels), _HEAD_BATCH):
        logits = vocabulary_logits(model, at_masks[start : start + _HEAD_BATCH])
        true = labels[start : start + _HEAD_BATCH]
        ranks.append(true_token_ranks(logits, true))
        losses.append(true_token_losses(logits, true))
        best.append(logits.argmax(dim=1))
    return (
        torch.cat(ranks).cpu().numpy(),
        torch.cat(losses).double().cpu().numpy(),
        torch.cat(best).cpu().numpy(),
    )


@dataclass(frozen=True)
class MaskScores:
    """Scores of one model at all masks.

    Attributes:
        examples: (masks,) row of the example that contains the mask.
        ranks, losses: (masks,) rank and loss of the true token.
        best: (masks,) id of the most probable token.
    """

    examples: Ints
    ranks: Ints
    losses: NDArray[np.float64]
    best: Ints


class HeldoutShards:
    """Held-out split of an encoding run; the tokenizers of all models are checked against it.

    Raises:
        InputError: the run is incomplete or has no held-out split, a shard has changed, or a model has a different
            tokenizer.
    """

    def __init__(self, config: EvaluateFillMaskConfig) -> None:
        assert config.shards_dir is not None
        self._config = config
        for folder in model_dirs(config).values():
            tokenizer_json, embeddings = read_tokenizer(folder), read_model_config(folder).vocab_size
            check_vocabulary(config.shards_dir, tokenizer_json, model=folder, embeddings=embeddings)
        self._shards = ShardSet(config.shards_dir, "heldout", verify=True, cache=ShardCache(config.cache))
        self._vocabulary: Vocabulary = vocabulary_of(tokenizer_json)

    @property
    def examples(self) -> int:
        """Number of evaluated examples."""
        return min(len(self._shards), self._config.max_examples or len(self._shards))

    @property
    def masks(self) -> int:
        """Number of masks in the evaluated examples."""
        rows = np.arange(self.examples)
        return int(self._shards.mask_counts(rows, np.zeros_like(rows)).sum())

    def score(self, model: Any, name: str) -> MaskScores:
        """Score a model at all predicted positions, each replaced with the mask token."""
        batches: list[tuple[Ints, Ints, NDArray[np.float64], Ints]] = []
        size = self._config.batch_size
        with Progress(f"evaluate_fill_mask {name}", total=self.examples, unit="examples") as progress:
            for planned in heldout_rows(self._shards, batch_size=size, limit=self._config.max_examples):
                padded = collate(self._shards, planned, pad_id=self._vocabulary.pad)
                width = padded.input_ids.shape[1]
                batch = _tensors(padded.fully_masked(self._vocabulary.mask))
                predictions = predict_masks(model, batch, self._config.precision)
                batches.append((planned.rows[padded.mask_index // width], *predictions))
                progress.advance(len(planned.rows))
        return MaskScores(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))

    def single_batches(self) -> list[Batch]:
        """Return the first examples as batches of one, without padding."""
        batches = self.single_examples(self._config.latency_examples)
        return [_tensors(batch.fully_masked(self._vocabulary.mask)) for batch in batches]

    def single_examples(self, limit: int | None = None) -> Iterator[PaddedBatch]:
        """Yield the first examples as batches of one, without padding."""
        for row in range(self.examples)[:limit]:
            planned = PlannedRows(np.array([row]), np.zeros(1, np.int64))
            yield collate(self._shards, planned, pad_id=self._vocabulary.pad, multiple=1)


def _tensors(batch: PaddedBatch) -> Batch:
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids, batch.mask_index, batch.mask_labels)
    return Batch(*map(torch.from_numpy, arrays))


@dataclass(frozen=True)
class AnswerScores:
    """Scores of one model for the answers of windows.

    Attributes:
        ranks: (answers,) rank of the worst piece in the joint pass.
        losses: (answers,) negative log probability in the joint pass, summed over the pieces, in nats.
        left_to_right_ranks, left_to_right_losses: the same from left to right; for answers of one piece, equal to the
            joint scores.
        best: (pieces,) most probable token in the joint pass.
    """

    ranks: Ints
    losses: NDArray[np.float64]
    left_to_right_ranks: Ints
    left_to_right_losses: NDArray[np.float64]
    best: Ints


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
    """Score the answers of windows, in batches of similar length.

    Args:
        model: from `load_masked_lm`, on its device.
        windows: from `encode_examples`.
        pad_id: id of the padding token.
        precision: auto, bf16, fp16 or fp32.
        max_rows: maximum number of windows in a batch.
        max_tokens: maximum number of tokens in a batch, including padding.
        left_to_right: also score answers of several pieces from left to right.
    """
    queries = _Queries(windows, left_to_right=left_to_right, pad_id=pad_id)
    pieces = len(windows.labels)
    # One slot per piece for the joint pass, followed by one per piece for the left-to-right passes.
    ranks, best = np.zeros(2 * pieces, np.int64), np.zeros(2 * pieces, np.int64)
    losses = np.zeros(2 * pieces)
    max_width = int(model.config.max_position_embeddings)
    for rows in length_sorted_batches(queries.lengths.tolist(), max_rows=max_rows, max_tokens=max_tokens):
        batch, slots = queries.batch(rows, max_width=max_width)
        ranks[slots], losses[slots], best[slots] = predict_masks(model, batch, precision)
    return _answer_scores(windows, queries.left_to_right_slots, ranks, losses, best[:pieces])


class _Queries:
    """Model inputs: one for each window, then one for each piece of an answer after its first."""

    def __init__(self, windows: Windows, *, left_to_right: bool, pad_id: int) -> None:
        self._windows, self._pad_id = windows, pad_id
        counts = (windows.pieces - 1) * int(left_to_right)
        self._answer_of_query = np.repeat(np.arange(len(counts)), counts)
        starts = counts.cumsum() - counts
        # Number of true pieces shown to the model.
        self._revealed = np.arange(len(self._answer_of_query)) - starts[self._answer_of_query] + 1
        self.lengths = np.concatenate([windows.lengths, windows.lengths[windows.window[self._answer_of_query]]])
        self._first_answer = np.searchsorted(windows.window, np.arange(len(windows.lengths) + 1))
        # (pieces,) slot of the left-to-right prediction of each piece; the first piece uses the joint pass.
        self.left_to_right_slots = np.arange(len(windows.labels))
        later_pieces = windows.bounds[self._answer_of_query] + self._revealed
        self.left_to_right_slots[later_pieces] += len(windows.labels)

    def batch(self, rows: Sequence[int], *, max_width: int) -> tuple[Batch, Ints]:
        """Return a batch of queries and the slots of its predictions."""
        width = min(padded_width(int(self.lengths[list(rows)].max())), max_width)
        input_ids = np.full((len(rows), width), self._pad_id, np.int64)
        index: list[NDArray[np.int64]] = []
        slots: list[NDArray[np.int64]] = []
        for number, row in enumerate(rows):
            for slot, position in self._fill_row(row, input_ids[number]):
                slots.append(slot)
                index.append(position + number * width)
        all_slots = np.concatenate(slots)
        attention = np.arange(width) < self.lengths[list(rows)][:, None]
        labels = self._windows.labels[all_slots % len(self._windows.labels)]
        arrays = (input_ids, attention.astype(np.int64), np.concatenate(index), labels)
        ids, mask, positions, true_ids = (torch.from_numpy(array) for array in arrays)
        return Batch(ids, mask, None, positions, true_ids), all_slots

    def _fill_row(self, row: int, input_ids: NDArray[np.int64]) -> Iterator[tuple[Ints, Ints]]:
        """Write the ids of a query to `input_ids` and yield the slots and positions of its predictions."""
        windows, count = self._windows, len(self._windows.lengths)
        window = row if row < count else int(windows.window[self._answer_of_query[row - count]])
        ids = windows.ids[windows.offsets[window] : windows.offsets[window + 1]]
        input_ids[: len(ids)] = ids
        if row < count:
            for answer in range(self._first_answer[window], self._first_answer[window + 1]):
                slots = np.arange(windows.bounds[answer], windows.bounds[answer + 1])
                yield slots, slots - windows.bounds[answer] + windows.start[answer]
            return
        answer, revealed = self._answer_of_query[row - count], self._revealed[row - count]
        start, first = windows.start[answer], windows.bounds[answer]
        input_ids[start : start + revealed] = windows.labels[first : first + revealed]
        yield np.array([first + revealed + len(windows.labels)]), np.array([start + revealed])


def _answer_scores(windows: Windows, slots: Ints, ranks: Ints, losses: NDArray[np.float64], best: Ints) -> AnswerScores:
    """Reduce the scores of pieces to scores of answers; `slots` are the left-to-right ones."""
    pieces = len(best)
    if not pieces:
        no_ints, no_floats = np.zeros(0, np.int64), np.zeros(0)
        return AnswerScores(no_ints, no_floats, no_ints, no_floats, no_ints)
    starts = windows.bounds[:-1]
    return AnswerScores(
        ranks=np.maximum.reduceat(ranks[:pieces], starts),
        losses=np.add.reduceat(losses[:pieces], starts),
        left_to_right_ranks=np.maximum.reduceat(ranks[slots], starts),
        left_to_right_losses=np.add.reduceat(losses[slots], starts),
        best=best,
    )


def single_batches(windows: Windows, count: int) -> Iterator[Batch]:
    """Yield the first windows as batches of one, without padding."""
    queries = _Queries(windows, left_to_right=False, pad_id=0)
    for row in range(min(count, len(windows.lengths))):
        yield queries.batch([row], max_width=int(windows.lengths[row]))[0]


@torch.inference_mode()
def measure_latencies(model: Any, batches: Sequence[Batch]) -> list[float]:
    """Time encoder and head in fp32; return milliseconds per batch, after one warm-up pass."""
    times = []
    for batch in [*batches[:1], *batches]:
        started = time.perf_counter()
        hidden = encode(model, batch.input_ids, batch.attention_mask, batch.token_type_ids)
        vocabulary_logits(model, hidden.flatten(0, 1)[batch.index])
        times.append((time.perf_counter() - started) * 1e3)
    return times[1:]
