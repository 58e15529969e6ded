"""Terms of the vocabulary loss and their gradient, from the logits of some rows.

`vocabulary_terms` is a pure function that makes no decision from the values of its tensors. So `torch.compile` turns it
into kernels that read the logits twice and write their gradient once, for any number of rows and any factors, and a GPU
never waits for the host. Without compilation it computes the same, one operation at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = -100  # label of rows without anything to predict, as in torch


@dataclass(frozen=True)
class Formula:
    """The terms besides `mlm`, and the temperature of `ce`."""

    ce: bool
    mse: bool
    temperature: float


class StudentLogits(NamedTuple):
    """Logits of some rows of the student, in any dtype.

    A sparse teacher divides the vocabulary into two parts: the tokens that it does not know, and those that it knows.
    The first part has the whole width, with the smallest number of the dtype as logit of the known tokens.

    Attributes:
        parts: (rows, vocabulary); with a sparse teacher, also (rows, k).
        ids: (rows, k) tokens of the sparse teacher.
        labels: (rows,) original ids; -100 where there is nothing to predict.
        at_labels: (rows, 1) logits of the original ids; meaningless where there is nothing to predict.
    """

    parts: tuple[Tensor, ...]
    ids: Tensor | None
    labels: Tensor
    at_labels: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, ids: Tensor | None) -> "StudentLogits":
        """Divide the logits; overwrites those of the tokens of a sparse teacher."""
        at_labels = logits.gather(1, labels.clamp(min=0)[:, None])
        if ids is None:
            return cls((logits,), None, labels, at_labels)
        known = logits.gather(1, ids)
        put_columns(logits, ids, torch.full_like(known, torch.finfo(logits.dtype).min))
        return cls((logits, known), ids, labels, at_labels)

    def select(self, rows: slice | Tensor) -> "StudentLogits":
        ids = None if self.ids is None else self.ids[rows]
        return StudentLogits(tuple(part[rows] for part in self.parts), ids, self.labels[rows], self.at_labels[rows])


def put_columns(values: Tensor, ids: Tensor, columns: Tensor) -> None:
    """Overwrite (rows, k) columns; each row has its own ids. Unlike `scatter_`, this is fast in bf16 on a CPU."""
    values[torch.arange(len(ids), device=ids.device)[:, None], ids] = columns


def vocabulary_terms(
    student: StudentLogits, teacher: Tensor | None, factors: Tensor, formula: Formula, *, only_labeled: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Return the gradient of each part of the logits, and the sums of `ce`, `mlm` and `mse`, (3,).

    Everything is in fp32. The logits of both models may be overwritten.

    Args:
        teacher: logits (rows, vocabulary) of a dense teacher, or the targets (rows, k + 1) of a sparse one.
        factors: (3,) of the gradients of `ce` (with respect to softened logits), `mlm`, and `mse` (half of it).
        only_labeled: select the rows that have a label for `mlm`. This saves work on a CPU; a GPU would have to wait.
    """
    ce = mse = torch.zeros((), dtype=torch.float32, device=factors.device)
    only_labeled = only_labeled and teacher is not None
    rows = (student.labels != IGNORE_INDEX).nonzero().squeeze(1) if only_labeled else None
    labeled = student if rows is None else student.select(rows)
    labeled_gradients, mlm, total = _masked_lm(labeled, factors[1], overwrite=rows is not None)
    gradients: list[Tensor] = []
    if teacher is not None and student.ids is not None:
        gradients, ce = _sparse_kl(student, teacher, factors[0], formula.temperature)
    elif teacher is not None:
        if formula.mse:
            difference = student.parts[0] - teacher
            gradients, mse = [difference * factors[2]], _total(difference.square_())
        if formula.ce:
            # With this dependency, compiled kernels compute all normalizers in their first pass over the logits.
            zero = 0.0 if only_labeled else 0.0 * total
            gradient, ce = _dense_kl(student.parts[0], teacher, factors[0], formula.temperature, zero)
            gradients = [gradients[0].add_(gradient) if gradients else gradient]
    for gradient, labeled_gradient in zip(gradients, labeled_gradients, strict=bool(gradients)):
        if rows is None:
            gradient.add_(labeled_gradient)
        else:
            gradient.index_add_(0, rows, labeled_gradient)
    return gradients or labeled_gradients, torch.stack([ce, mlm, mse])


def fused_vocabulary_terms(
    student: StudentLogits, teacher: Tensor | None, factors: Tensor, formula: Formula
) -> tuple[list[Tensor], Tensor]:
    """Return compiled `vocabulary_terms` of logits in any dtype, and their gradients in the same dtype.

    The first call compiles it for any number of rows above 1. It overwrites nothing.
    """
    for tensor in (*student.parts, student.ids, student.labels, student.at_labels, teacher):
        if tensor is not None:
            torch._dynamo.mark_dynamic(tensor, 0)
    return _compiled()(student, teacher, factors, formula)


@cache
def _compiled() -> Callable[..., tuple[list[Tensor], Tensor]]:
    def terms(
        student: StudentLogits, teacher: Tensor | None, factors: Tensor, formula: Formula
    ) -> tuple[list[Tensor], Tensor]:
        copies = student._replace(parts=tuple(part.to(torch.float32, copy=True) for part in student.parts))
        targets = None if teacher is None else teacher.to(torch.float32, copy=True)
        gradients, sums = vocabulary_terms(copies, targets, factors, formula)
        return [gradient.to(part.dtype) for gradient, part in zip(gradients, student.parts, strict=True)], sums

    return torch.compile(terms, fullgraph=True)


def _masked_lm(student: StudentLogits, factor: Tensor, *, overwrite: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the gradients, the loss and the normalizer of the softmax."""
    softmax = _softmax([part if overwrite else part.clone() for part in student.parts])
    has_label, labels = (student.labels != IGNORE_INDEX)[:, None], student.labels.clamp(min=0)[:, None]
    losses = softmax.largest - student.at_labels.float() + softmax.total.log()
    first = softmax.probabilities[0]
    if torch.compiler.is_compiling():  # a scatter could not be part of a larger kernel
        first.add_(torch.arange(first.shape[1], device=first.device) == labels, alpha=-1)
    else:
        first.scatter_add_(1, labels, torch.full_like(losses, -1.0))
    if student.ids is not None:
        softmax.probabilities[1].add_(student.ids == labels, alpha=-1)
    gradients = [each.mul_(has_label * factor) for each in softmax.probabilities]
    return gradients, torch.where(has_label, losses, 0.0).sum(), softmax.total


def _dense_kl(
    student: Tensor, teacher: Tensor, factor: Tensor, temperature: float, zero: Tensor | float
) -> tuple[Tensor, Tensor]:
    q, p = (_softmax([logits], temperature) for logits in (student, teacher))
    log_ratio = p.shifted[0].sub_(q.shifted[0]).sub_(p.total.log() - q.total.log() + zero)
    loss = _total(log_ratio.mul_(p.probabilities[0])) * temperature**2
    return q.probabilities[0].sub_(p.probabilities[0]).mul_(factor), loss


def _sparse_kl(
    student: StudentLogits, log_p: Tensor, factor: Tensor, temperature: float
) -> tuple[list[Tensor], Tensor]:
    q, p = _softmax(list(student.parts), temperature), log_p.exp()
    known, rest = p[:, :-1], p[:, -1:]
    student_rest = (q.totals[0] / q.total).clamp_min(1e-20)
    student_log_p = torch.cat([q.shifted[1] - q.total.log(), student_rest.log()], dim=1)
    gradients = [q.probabilities[0].mul_((1.0 - rest / student_rest) * factor), (q.probabilities[1] - known) * factor]
    return gradients, _total(p * (log_p - student_log_p)) * temperature**2


class _Softmax(NamedTuple):
    """Softmax over all parts of the vocabulary.

    Attributes:
        shifted: logits minus the largest logit of the row, (rows, part).
        probabilities: (rows, part).
        totals: sums of exp(shifted) over each part, (rows, 1).
        largest: largest logit, (rows, 1).
        total: sum of exp(shifted) over all parts, (rows, 1).
    """

    shifted: list[Tensor]
    probabilities: list[Tensor]
    totals: list[Tensor]
    largest: Tensor
    total: Tensor


def _softmax(logits: list[Tensor], temperature: float = 1.0) -> _Softmax:
    """Return the softmax over all parts; overwrites the logits."""
    # With one part, torch's compiler replaces these operations with one that reads the logits once on a GPU. It would
    # reorder a plain division and the maximum, and no longer recognize them.
    if temperature != 1.0:
        logits = [part.div_(temperature, rounding_mode=None) for part in logits]
    maxima = [part.amax(dim=-1, keepdim=True) for part in logits]
    largest = reduce(torch.maximum, maxima)
    if torch.compiler.is_compiling():
        # Each part is shifted by its own maximum first, so that the compiler recognizes the softmax. The powers have no
        # second use, for which the compiler would store them.
        totals = [(part - top).exp().sum(dim=-1, keepdim=True) for part, top in zip(logits, maxima, strict=True)]
        totals = [total * (top - largest).exp() for total, top in zip(totals, maxima, strict=True)]
        total = reduce(torch.add, totals)
        shifted = [part - largest for part in logits]
        probabilities = [(part - total.log()).exp() for part in shifted]
    else:
        shifted = [part.sub_(largest) for part in logits]
        powers = [part.exp() for part in shifted]
        totals = [part.sum(dim=-1, keepdim=True) for part in powers]
        total = reduce(torch.add, totals)
        probabilities = [part.div_(total) for part in powers]
    return _Softmax(shifted, probabilities, totals, largest, total)


def _total(values: Tensor) -> Tensor:
    return values.sum(dim=-1).sum()
