"""Loss terms: the registry, and the losses on hidden states, attention and values.

A loss is a sum over real tokens; the objective divides it by the counts of the global step. The losses on the
vocabulary are computed together in `vocabulary_loss`. To add a loss, add its function and an entry in `LOSSES` here,
and its weight in `config.distillation.LossConfig`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """Loss term. Its weight in a recipe is `losses.alpha_NAME`.

    Attributes:
        name: key in metrics and held-out scores.
        label: name in reports and model cards.
        compares: the outputs of student and teacher that are passed to the function. `vocabulary`: logits, in
            `vocabulary_loss`; `last_hidden`: (tokens, dim) last hidden states of the real tokens. The others are
            outputs of each pair of layers, with the attention mask as third argument: `hidden`: (batch, length, dim);
            `attention`: queries and keys, `values`: values, (batch, heads, length, head dim) each.
        function: returns the sum over the batch; None for the losses in `vocabulary_loss`.
        per: the unit that the sum is divided by: real tokens, masked tokens, or pairs of real tokens. A loss on the
            vocabulary that is computed at the masked tokens only is divided by their count.
        needs_teacher: True if the loss is undefined without a teacher.
    """

    name: str
    label: str
    compares: Literal["vocabulary", "last_hidden", "hidden", "attention", "values"]
    function: Callable[..., Tensor] | None = None
    per: Literal["tokens", "masked", "pairs"] = "tokens"
    needs_teacher: bool = True

    def __call__(self, student: Any, teacher: Any, mask: Tensor) -> Tensor:
        """Return the sum over a batch, in fp32."""
        assert self.function is not None
        return self.function(student, teacher, *([] if self.compares == "last_hidden" else [mask]))


def hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """Return 1 - cosine of the last hidden states, summed over tokens (DistilBERT paper, section 2).

    Args:
        student_hidden, teacher_hidden: (tokens, dim).
    """
    return (1.0 - F.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)).sum()


def hidden_mse(student_hidden: Tensor, teacher_hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the squared difference of hidden states, averaged over dimensions and summed over real tokens.

    TinyBERT, equation 8.

    Args:
        student_hidden, teacher_hidden: (batch, length, dim).
        mask: (batch, length), nonzero at real tokens.
    """
    difference = student_hidden.float() - teacher_hidden.float()
    return difference.masked_fill(~mask.bool()[:, :, None], 0.0).square().mean(dim=-1).sum()


def attention_mse(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Return the squared difference of attention scores, averaged over heads and summed over pairs of real tokens.

    Scores are taken before the softmax. TinyBERT, equation 7.

    Args:
        student, teacher: queries and keys, (batch, heads, length, head dim) each.
        mask: (batch, length), nonzero at real tokens.
    """
    difference = _scores(*student) - _scores(*teacher)
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None, :])[:, None]
    return difference.masked_fill(~pairs, 0.0).square().mean(dim=1).sum()


def value_relation_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) of the value relations, averaged over heads and summed over real tokens.

    The value relation is the softmax of the scaled dot products of all values (MiniLM, equation 3).

    Args:
        student, teacher: values, (batch, heads, length, head dim).
        mask: (batch, length), nonzero at real tokens.
    """
    real = mask.bool()
    padding = ~real[:, None, None, :]
    student_log_p, teacher_log_p = (
        _scores(values, values).masked_fill(padding, -math.inf).log_softmax(dim=-1) for values in (student, teacher)
    )
    # Both are -inf at padded keys, where the difference would be NaN; these keys have no weight.
    terms = teacher_log_p.exp() * (teacher_log_p - student_log_p).masked_fill(padding, 0.0)
    return terms.sum(dim=-1).mean(dim=1).masked_fill(~real, 0.0).sum()


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(queries.shape[-1])


_ALL = (
    Loss("ce", "KL to the teacher's probabilities", "vocabulary"),
    Loss("mlm", "masked language modeling", "vocabulary", per="masked", needs_teacher=False),
    Loss("cos", "cosine of the hidden states", "last_hidden", hidden_cosine),
    Loss("mse", "squared difference of the logits", "vocabulary"),
    Loss("hidden", "squared difference of hidden states", "hidden", hidden_mse),
    Loss("attention", "squared difference of attention scores", "attention", attention_mse, per="pairs"),
    Loss("values", "KL of the relations between values", "values", value_relation_kl),
)
LOSSES: dict[str, Loss] = {loss.name: loss for loss in _ALL}
