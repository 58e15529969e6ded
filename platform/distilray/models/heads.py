"""Masked-LM heads, applied to selected positions only."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilray.models.architectures import ARCHITECTURES, architecture_of

_UNSEEN_COUNT = 0.1  # count of a token that never occurs, so that its log frequency is finite
_HEAD_PREFIXES = tuple(prefix for family in ARCHITECTURES.values() for prefix in family.head_prefixes)


def vocabulary_logits(model: Any, hidden: Tensor) -> Tensor:
    """Return the logits, (..., vocabulary), of hidden states (..., dim)."""
    return decoder(model)(apply_head_transform(model, hidden))


def apply_head_transform(model: Any, hidden: Tensor) -> Tensor:
    """Return the input of the decoder, (..., dim), for hidden states (..., dim)."""
    output: Tensor = head_transform(model)(hidden)
    return output


def head_transform(model: Any) -> nn.Module:
    """Return the vocabulary head without its decoder."""
    return nn.Sequential(*architecture_of(model.config).head_of(model)[:-1])


def decoder(model: Any) -> nn.Linear:
    """Return the last matrix of the vocabulary head, whose weight is tied to the word embeddings."""
    last: nn.Linear = architecture_of(model.config).head_of(model).decoder
    return last


@torch.no_grad()
def initialize_head_bias(model: Any, label_counts: NDArray[np.int64]) -> bool:
    """Initialize the bias of a new vocabulary head with the log frequencies of the tokens.

    Args:
        model: masked language model.
        label_counts: (ids of the tokenizer,) how often each token is a label; further rows of the head count as 0.

    Returns:
        False if the head is already trained; it is not changed then.
    """
    bias = decoder(model).bias
    if bias.any():
        return False
    padded = np.pad(label_counts, (0, len(bias) - len(label_counts)))
    counts = torch.from_numpy(padded).to(bias.dtype) + _UNSEEN_COUNT
    bias.copy_((counts / counts.sum()).log())
    return True


def is_head_parameter(name: str) -> bool:
    """Return whether a parameter belongs to the vocabulary head; the tied decoder matrix is an embedding."""
    return name.startswith(_HEAD_PREFIXES)
