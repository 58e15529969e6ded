"""Masked-LM heads: logits of given hidden states, initialization of the bias, and names of parameters."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distilray.models.architectures import ARCHITECTURES, architecture_of

_SMOOTHING = 0.1  # added to every count, so that the log frequency of a token that never occurs is finite
_HEAD_PREFIXES = tuple(prefix for family in ARCHITECTURES.values() for prefix in family.head_prefixes)


def vocabulary_logits(model: Any, hidden: Tensor) -> Tensor:
    """Return the logits, (..., vocabulary), of hidden states (..., dim)."""
    return decoder(model)(apply_head_transform(model, hidden))


def apply_head_transform(model: Any, hidden: Tensor, *, compiled: bool = False) -> Tensor:
    """Return the input of the decoder, (..., dim), for hidden states (..., dim)."""
    transform = _compiled_transform() if compiled else _transform
    return transform(*architecture_of(model.config).head_of(model)[:-1], hidden)


@functools.cache
def _compiled_transform() -> Callable[..., Tensor]:
    transform: Callable[..., Tensor] = torch.compile(_transform, dynamic=True)
    return transform


def _transform(dense: nn.Module, activation: nn.Module, norm: nn.Module, hidden: Tensor) -> Tensor:
    output: Tensor = norm(activation(dense(hidden)))
    return output


def decoder(model: Any) -> nn.Linear:
    """Return the output layer of the masked-LM head; its weight is tied to the word embeddings."""
    output: nn.Linear = architecture_of(model.config).head_of(model).decoder
    return output


@torch.no_grad()
def initialize_head_bias(model: Any, label_counts: NDArray[np.int64]) -> bool:
    """Initialize the bias of a new masked-LM head with the log frequencies of the tokens.

    Args:
        model: masked language model.
        label_counts: (tokenizer vocabulary,) how often each token is a label. Further outputs of the head have count 0.

    Returns:
        False if the head is already trained; it is not changed then.
    """
    bias = decoder(model).bias
    if bias.any():
        return False
    padded = np.pad(label_counts, (0, len(bias) - len(label_counts)))
    counts = torch.from_numpy(padded).to(bias.dtype) + _SMOOTHING
    bias.copy_((counts / counts.sum()).log())
    return True


def is_head_parameter(name: str) -> bool:
    """Return whether a parameter belongs to the masked-LM head; the tied decoder matrix is an embedding."""
    return name.startswith(_HEAD_PREFIXES)
