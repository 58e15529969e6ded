"""The masked-LM head of a model, on chosen positions only."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilray.models.architectures import ARCHITECTURES, architecture_of

# What a token that never occurs counts as, so that its log frequency is finite.
_UNSEEN_COUNT = 0.1
# Bare encoders lack these parameters.
_HEAD_PREFIXES = tuple(prefix for family in ARCHITECTURES.values() for prefix in family.head_prefixes)


def vocabulary_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits over the vocabulary, (..., vocabulary), of hidden states (..., dim)."""
    return decoder(model)(apply_head_transform(model, hidden))


def apply_head_transform(model: Any, hidden: Tensor) -> Tensor:
    """What the vocabulary head does to hidden states (..., dim) before its last matrix."""
    found: Tensor = head_transform(model)(hidden)
    return found


def head_transform(model: Any) -> nn.Module:
    """The vocabulary head without its last matrix."""
    return nn.Sequential(*architecture_of(model.config).head_of(model)[:-1])


def decoder(model: Any) -> nn.Linear:
    """The last matrix of the vocabulary head; its weight is that of the word embeddings."""
    last: nn.Linear = architecture_of(model.config).head_of(model).decoder
    return last


@torch.no_grad()
def initialize_head_bias(model: Any, label_counts: NDArray[np.int64]) -> bool:
    """Gives a fresh vocabulary head the log frequencies of the tokens as its bias: it need not learn those any more.

    Args:
        model: masked language model.
        label_counts: (ids of the tokenizer,) how often each token is to be predicted; further rows of the head count 0.

    Returns:
        False, and nothing is changed, when the head has been trained before.
    """
    bias = decoder(model).bias
    if bias.any():
        return False
    padded = np.pad(label_counts, (0, len(bias) - len(label_counts)))
    counts = torch.from_numpy(padded).to(bias.dtype) + _UNSEEN_COUNT
    bias.copy_((counts / counts.sum()).log())
    return True


def is_head_parameter(name: str) -> bool:
    """Whether a parameter belongs to the vocabulary head (the tied decoder matrix counts as an embedding)."""
    return name.startswith(_HEAD_PREFIXES)
