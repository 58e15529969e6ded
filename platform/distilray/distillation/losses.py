"""The losses on hidden states, as sums: the step divides by the counts of the global step.

Those on the vocabulary are in `vocabulary`. Rows of padding never count.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """1 - cosine of the last hidden states, summed over tokens (DistilBERT paper section 2).

    Args:
        student_hidden, teacher_hidden: (tokens, dim).
    """
    return (1.0 - F.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)).sum()


def hidden_mse(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """Squared difference of hidden states, mean over the dimensions, summed over tokens (TinyBERT equation 8).

    Args:
        student_hidden, teacher_hidden: (tokens, dim).
    """
    return (student_hidden.float() - teacher_hidden.float()).square().mean(dim=-1).sum()


def attention_mse(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Squared difference of attention scores before the softmax, mean over heads, summed over pairs of real tokens.

    TinyBERT equation 7.

    Args:
        student, teacher: queries and keys, (batch, heads, length, head dim) each.
        mask: (batch, length), nonzero at real tokens.
    """
    difference = _scores(*student) - _scores(*teacher)
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None, :])[:, None]
    return difference.masked_fill(~pairs, 0.0).square().mean(dim=1).sum()


def value_relation_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax of scaled products of values, mean over heads, summed over real tokens.

    MiniLM equation 3.

    Args:
        student, teacher: values, (batch, heads, length, head dim).
        mask: (batch, length), nonzero at real tokens.
    """
    real = mask.bool()
    padding = ~real[:, None, None, :]
    ours, theirs = (
        _scores(values, values).masked_fill(padding, -math.inf).log_softmax(dim=-1) for values in (student, teacher)
    )
    # At padded keys both are -inf, and their difference is none; they have no weight.
    terms = theirs.exp() * (theirs - ours).masked_fill(padding, 0.0)
    return terms.sum(dim=-1).mean(dim=1)[real].sum()


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(queries.shape[-1])
