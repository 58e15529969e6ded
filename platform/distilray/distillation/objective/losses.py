"""The three losses of DistilBERT (paper section 2), as sums: the step divides by the counts of the global step."""

import torch.nn.functional as F
from torch import Tensor


def distillation_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 x KL(teacher || student) of the softened distributions, summed over tokens.

    Args:
        student_logits, teacher_logits: (tokens, vocabulary).
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def masked_lm(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the original ids, summed over the tokens with a label.

    Args:
        student_logits: (tokens, vocabulary).
        labels: (tokens,) the original id, or -100 where there is nothing to predict.
    """
    return F.cross_entropy(student_logits.float(), labels, reduction="sum", ignore_index=-100)


def hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """1 - cosine of the last hidden states, summed over tokens.

    Args:
        student_hidden, teacher_hidden: (tokens, dim).
    """
    return (1.0 - F.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)).sum()
