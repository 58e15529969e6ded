"""The losses on the vocabulary, value and gradient together, without the logits of all tokens in memory.

Rows pass through the last matrix of the head in chunks; of each chunk the logits are computed once, turned into their
own gradient in place, and multiplied into the gradients of the hidden states and of the matrix. What is in fp32 is a
block of a few rows (on a CPU) or a chunk (on a GPU). The gradient is exact, that of the formulas.

    ce:  T^2 x KL(teacher || student) of the distributions softened by T (DistilBERT paper section 2)
    mlm: cross entropy of the original ids, at the rows that have one
    mse: sum of the squared differences of the logits
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100
# Logits of so many rows are alive in the dtype of the forward pass: 512 x 30,522 in bf16 are 31 MB, and as much for the
# teacher. A block is what is turned into fp32 at once: on a CPU it stays in the cache.
_CHUNK_ROWS = {"cpu": 512, "cuda": 4096}
_BLOCK_ROWS = {"cpu": 16, "cuda": 4096}


@dataclass(frozen=True)
class DenseTeacher:
    """A teacher's logits, from its own head.

    Attributes:
        hidden: (rows, dim) after the transform of its head.
        weight, bias: (vocabulary, dim), (vocabulary,) of its decoder.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def chunk(self, part: slice) -> Tensor:
        """(rows, vocabulary) logits of some rows."""
        return torch.addmm(self.bias.to(self.weight.dtype), self.hidden[part].to(self.weight.dtype), self.weight.T)


@dataclass(frozen=True)
class SparseTeacher:
    """The most probable tokens of a teacher, at the temperature of the loss.

    The rest of its probability is one event: how it is spread over the other tokens is not known and not asked for.

    Attributes:
        ids: (rows, k).
        log_probabilities: (rows, k), softened, in fp32: the one nearest to 0 tells how large the rest is.
    """

    ids: Tensor
    log_probabilities: Tensor


@dataclass(frozen=True)
class Factors:
    """What the sum of each term is multiplied with: its weight over the count of its rows in the global step."""

    ce: float = 0.0
    mlm: float = 0.0
    mse: float = 0.0


def vocabulary_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    *,
    teacher: DenseTeacher | SparseTeacher | None,
    factors: Factors,
    temperature: float,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The weighted sum of the terms, and the sum of each over the rows, without its factor.

    Args:
        hidden: (rows, dim) after the transform of the student's head.
        weight, bias: (vocabulary, dim), (vocabulary,) of the student's decoder.
        labels: (rows,) the original id, or -100 where there is nothing to predict.
        teacher: for the same rows; None when the factors of `ce` and `mse` are 0.
    """
    assert teacher is not None or not (factors.ce or factors.mse)
    assert not factors.mse or isinstance(teacher, DenseTeacher)
    arguments = _Arguments(teacher, factors, temperature)
    loss, sums = _VocabularyLoss.apply(hidden, weight, bias, labels, arguments)
    return loss, dict(zip(("ce", "mlm", "mse"), sums.unbind(), strict=True))


@dataclass(frozen=True)
class _Arguments:
    teacher: DenseTeacher | SparseTeacher | None
    factors: Factors
    temperature: float


class _VocabularyLoss(torch.autograd.Function):
    """The gradients are made in the forward pass; the backward pass multiplies them with that of the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, given: _Arguments) -> Any:
        factors = given.factors
        # Gradients of the logits of about 1 fit every dtype; what they are to be multiplied with comes at the end.
        unit = max(factors.ce * given.temperature, factors.mlm, 2 * factors.mse) or 1.0
        with torch.autocast(hidden.device.type, enabled=False):
            found = _chunks(hidden, weight, bias, labels, given, unit, gradient=any(ctx.needs_input_grad[:3]))
        ctx.unit = unit
        ctx.save_for_backward(found.hidden, found.weight, found.bias)
        ctx.mark_non_differentiable(found.sums)
        scales = found.sums.new_tensor([factors.ce, factors.mlm, factors.mse])
        return (found.sums * scales).sum(), found.sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Any:
        scale = gradient.float() * ctx.unit
        hidden, weight, bias = ctx.saved_tensors
        return (hidden.float() * scale).to(hidden.dtype), weight * scale, bias * scale, None, None


@dataclass
class _Found:
    """Sums of the terms, and gradients that are still to be multiplied with the unit."""

    sums: Tensor
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, given: _Arguments, unit: float, *, gradient: bool
) -> _Found:
    device, rows = hidden.device.type, len(hidden)
    matrix, inputs = weight.to(hidden.dtype), hidden.detach()
    found = _Found(torch.zeros(3, dtype=torch.float32, device=hidden.device), None, None, None)
    if gradient:
        found.hidden = torch.empty_like(inputs)
        found.weight = torch.zeros_like(weight, dtype=torch.float32)
        found.bias = torch.zeros_like(bias, dtype=torch.float32)
    blocks = _Blocks(given, unit, gradient, _BLOCK_ROWS.get(device, 256))
    for start in range(0, rows, _CHUNK_ROWS.get(device, 1024)):
        part = slice(start, start + _CHUNK_ROWS.get(device, 1024))
        logits = torch.addmm(bias.to(hidden.dtype), inputs[part], matrix.T)
        dense = given.teacher.chunk(part) if isinstance(given.teacher, DenseTeacher) else None
        found.sums += blocks.run(logits, dense, labels[part], part)
        if found.hidden is not None and found.weight is not None and found.bias is not None:
            # By now `logits` holds the gradient of the logits.
            torch.mm(logits, matrix, out=found.hidden[part])
            if logits.dtype == torch.float32:
                found.weight.addmm_(logits.T, inputs[part])
            else:
                found.weight += logits.T @ inputs[part]
            found.bias += logits.sum(dim=0, dtype=torch.float32)
    return found


@dataclass(frozen=True)
class _Blocks:
    """The terms of a chunk, a block of rows at a time; the logits become their gradient in place."""

    given: _Arguments
    unit: float
    gradient: bool
    rows: int

    def run(self, logits: Tensor, dense: Tensor | None, labels: Tensor, part: slice) -> Tensor:
        """(3,) sums of `ce`, `mlm` and `mse` over the chunk."""
        labelled = labels != NO_LABEL
        sums = torch.zeros(3, dtype=torch.float32, device=logits.device)
        for start in range(0, len(logits), self.rows):
            block = slice(start, start + self.rows)
            student = logits[block].float()
            places = labelled[block].nonzero().squeeze(1)
            picked = student[places] if len(places) else None  # before the logits are used up
            gradient = None
            if dense is not None:
                teacher = dense[block].float()
                if self.given.factors.mse:
                    gradient, sums[2] = self._squares(student, teacher, sums[2])
                if self.given.factors.ce:
                    gradient, sums[0] = self._dense_kl(student, teacher, gradient, sums[0])
            elif isinstance(self.given.teacher, SparseTeacher) and self.given.factors.ce:
                first = (part.start or 0) + start
                gradient, sums[0] = self._sparse_kl(student, slice(first, first + len(student)), sums[0])
            if gradient is None:
                gradient = torch.zeros_like(student)
            if picked is not None:
                sums[1] += self._masked_lm(picked, labels[block][places], gradient, places)
            if self.gradient:
                logits[block] = gradient
        return sums

    def _masked_lm(self, picked: Tensor, wanted: Tensor, gradient: Tensor, places: Tensor) -> Tensor:
        logs = picked.log_softmax(dim=-1)
        own = torch.arange(len(places), device=places.device)
        loss = -logs[own, wanted].sum()
        if self.gradient and self.given.factors.mlm:
            change = logs.exp_()
            change[own, wanted] -= 1.0
            gradient.index_add_(0, places, change, alpha=self.given.factors.mlm / self.unit)
        return loss

    def _squares(self, student: Tensor, teacher: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        difference = student - teacher
        return difference * (2 * self.given.factors.mse / self.unit), total + difference.square_().sum()

    def _dense_kl(
        self, student: Tensor, teacher: Tensor, gradient: Tensor | None, total: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Uses up both logits."""
        t = self.given.temperature
        own, own_total = _softened(student, t)
        other, teacher_total = _softened(teacher, t)
        # By now `student` and `teacher` hold logarithms without their normaliser.
        teacher.sub_(student).sub_((teacher_total / own_total).log_())
        loss = teacher.mul_(other).sum() * t**2
        change = self._change(own, other)
        return change if gradient is None else gradient.add_(change), total + loss

    def _sparse_kl(self, student: Tensor, rows: slice, total: Tensor) -> tuple[Tensor, Tensor]:
        t, teacher = self.given.temperature, self.given.teacher
        assert isinstance(teacher, SparseTeacher)
        ids, logs = teacher.ids[rows], teacher.log_probabilities[rows].float()
        own, own_total = _softened(student, t)
        own_logs = student.gather(1, ids) - own_total.log()
        known = logs.exp()
        # Both are small when a model is sure: one minus a sum in fp32 would have no digits left.
        rest = (1.0 - logs.double().exp().sum(1, keepdim=True)).float().clamp_min(torch.finfo(torch.float32).tiny)
        other = own.scatter(1, ids, 0.0)
        own_rest = other.sum(1, keepdim=True).clamp_min(1e-20)
        loss = (known * (logs - own_logs)).sum() + (rest * (rest.log() - own_rest.log())).sum()
        other.mul_(rest / own_rest).scatter_(1, ids, known)
        return self._change(own, other), total + loss * t**2

    def _change(self, own: Tensor, other: Tensor) -> Tensor:
        """The gradient of the KL, in the place of `own`."""
        return own.sub_(other).mul_(self.given.temperature * self.given.factors.ce / self.unit)


def _softened(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Probabilities at a temperature, and the sum that made them so; `logits` becomes their unnormalised logarithm."""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    if temperature != 1.0:
        logits.div_(temperature)
    probabilities = logits.exp()
    total = probabilities.sum(dim=-1, keepdim=True)
    return probabilities.div_(total), total
