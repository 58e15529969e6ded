"""Probabilities of tokens at masked positions, computed in batches of texts of similar length."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.inference.backends import MaskedLMBackend
from distilray.inference.encoding import length_sorted_batches, pad_batch

MAX_TOKENS = 4096  # in a batch, including padding


class MaskedText(NamedTuple):
    """A tokenized text with masks.

    Attributes:
        input_ids: token ids, including special tokens and masks.
        positions: masked positions to predict; other positions may be masked too.
        targets: token id whose probability is computed at each of these positions.
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
    """Return the log probabilities of the targets of each text, in nats.

    Duplicate texts are scored once, which guarantees that their values are identical.

    Args:
        advance: called with the number of finished texts, including duplicates.
    """
    counts = Counter(texts)
    unique = list(counts)
    values: dict[MaskedText, NDArray[np.float64]] = {}
    for index, logits in _logits(model, unique, pad_id, batch_size):
        text = unique[index]
        target_logits = logits[torch.arange(len(text.targets)), list(text.targets)]
        values[text] = (target_logits - logits.logsumexp(dim=1)).double().numpy()
        advance(counts[text])
    return [values[text] for text in texts]


def top_tokens(
    model: MaskedLMBackend, texts: Sequence[MaskedText], top_k: int, *, pad_id: int, batch_size: int
) -> list[list[tuple[int, float]]]:
    """Return the most probable tokens at the first mask of each text with their probabilities, best first."""
    best: list[list[tuple[int, float]]] = [[] for _ in texts]
    for index, logits in _logits(model, texts, pad_id, batch_size):
        scores, ids = logits[0].softmax(dim=0).topk(min(top_k, logits.shape[1]))
        best[index] = list(zip(ids.tolist(), scores.tolist(), strict=True))
    return best


def _logits(
    model: MaskedLMBackend, texts: Sequence[MaskedText], pad_id: int, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the index of each text and its logits, shape (masks, vocabulary), in the order of the batches."""
    lengths = [len(text.input_ids) for text in texts]
    for batch in length_sorted_batches(lengths, max_rows=batch_size, max_tokens=MAX_TOKENS):
        input_ids, attention_mask = pad_batch([texts[index].input_ids for index in batch], pad_id)
        width = input_ids.shape[1]
        positions = [row * width + at for row, index in enumerate(batch) for at in texts[index].positions]
        logits = torch.from_numpy(model.logits_at(input_ids, attention_mask, np.array(positions, np.int64)))
        yield from zip(batch, logits.split([len(texts[index].positions) for index in batch]), strict=True)
