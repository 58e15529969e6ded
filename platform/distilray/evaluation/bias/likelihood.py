"""Probabilities of tokens at masked positions: texts in batches of like length, only their masks through the head."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.inference.backends import MaskedLMBackend
from distilray.inference.encoding import length_sorted_batches, pad_batch

MAX_TOKENS = 4096  # of a batch, padding included


class MaskedText(NamedTuple):
    """A text with masks.

    Attributes:
        input_ids: with special tokens, and masks where tokens are hidden.
        positions: the masked places that are asked about; others may be masked too.
        targets: the token that is meant at each of them.
    """

    input_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


def log_probabilities(
    model: MaskedLMBackend,
    texts: Sequence[MaskedText],
    *,
    pad_id: int,
    batch_size: int,
    advance: Callable[[int], object] = lambda texts: None,
) -> list[NDArray[np.float64]]:
    """The log probability, in nats, of each target of each text; equal texts are asked once, so their values are equal.

    Args:
        advance: told the number of texts that a batch has finished, repeated ones included.
    """
    numbers: dict[MaskedText, int] = {}
    for text in texts:
        numbers[text] = numbers.get(text, 0) + 1
    unique = list(numbers)
    found: dict[MaskedText, NDArray[np.float64]] = {}
    for index, logits in _logits(model, unique, pad_id, batch_size):
        text = unique[index]
        chosen = logits[torch.arange(len(text.targets)), list(text.targets)]
        found[text] = (chosen - logits.logsumexp(dim=1)).double().numpy()
        advance(numbers[text])
    return [found[text] for text in texts]


def top_tokens(
    model: MaskedLMBackend, texts: Sequence[MaskedText], top_k: int, *, pad_id: int, batch_size: int
) -> list[list[tuple[int, float]]]:
    """The most probable tokens at the first mask of each text, the best first, with their probabilities."""
    best: list[list[tuple[int, float]]] = [[] for _ in texts]
    for index, logits in _logits(model, texts, pad_id, batch_size):
        scores, ids = logits[0].softmax(dim=0).topk(min(top_k, logits.shape[1]))
        best[index] = list(zip(ids.tolist(), scores.tolist(), strict=True))
    return best


def _logits(
    model: MaskedLMBackend, texts: Sequence[MaskedText], pad_id: int, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Index of each text and its logits, (masks, vocabulary), in the order of the batches."""
    lengths = [len(text.input_ids) for text in texts]
    for batch in length_sorted_batches(lengths, max_rows=batch_size, max_tokens=MAX_TOKENS):
        input_ids, attention_mask = pad_batch([texts[index].input_ids for index in batch], pad_id)
        width = input_ids.shape[1]
        places = [row * width + place for row, index in enumerate(batch) for place in texts[index].positions]
        logits = torch.from_numpy(model.logits_at(input_ids, attention_mask, np.array(places, np.int64)))
        yield from zip(batch, logits.split([len(texts[index].positions) for index in batch]), strict=True)
