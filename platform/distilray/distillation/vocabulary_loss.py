"""Losses on the vocabulary: value and gradient in one pass, without materializing the logits of all tokens.

Rows go through the output matrix of the head in chunks. The logits of a chunk are computed once, overwritten with their
gradient, and multiplied into the gradients of the hidden states and of the matrix. Only a block of a few rows (CPU) or
a chunk (GPU) is ever held in fp32. The gradient is exact:

    ce:  T^2 x KL(teacher || student) of the distributions softened by T (DistilBERT paper, section 2)
    mlm: cross entropy with the original ids, at the rows that have a label
    mse: sum of the squared differences of the logits
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100  # label of rows without anything to predict, as in torch
# Rows whose logits exist at the same time, in the dtype of the forward pass: 512 x 30,522 in bf16 take 31 MB, and as
# much again for the teacher.
_CHUNK_ROWS = {"cpu": 512, "cuda": 4096}
# Rows that are converted to fp32 at the same time; on a CPU they must fit in the cache.
_BLOCK_ROWS = {"cpu": 16, "cuda": 4096}


@dataclass(frozen=True)
class DenseTeacher:
    """All logits of a teacher, computed with its own head.

    Attributes:
        hidden: (rows, dim) after the transform of the teacher's head.
        weight: (vocabulary, dim) of its decoder.
        bias: (vocabulary,) of its decoder.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def chunk(self, rows: slice) -> Tensor:
        """Return the logits of some rows, (rows, vocabulary)."""
        return torch.addmm(self.bias.to(self.weight.dtype), self.hidden[rows].to(self.weight.dtype), self.weight.T)


@dataclass(frozen=True)
class SparseTeacher:
    """The most probable tokens of a teacher, at the temperature of the loss.

    The remaining probability counts as one event; how it is distributed over the other tokens is unknown.

    Attributes:
        ids: (rows, k).
        log_probabilities: (rows, k), softened.
        rest: (rows, 1) remaining probability in fp32. When the teacher is certain, it is tiny, and 1 - sum of the
            others would have no correct digits.
    """

    ids: Tensor
    log_probabilities: Tensor
    rest: Tensor


@dataclass(frozen=True)
class Factors:
    """Factor of the sum of each term: its weight divided by the count of its rows in the global step."""

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
    """Return the weighted sum of the terms, and the unweighted sum of each term over the rows.

    Args:
        hidden: (rows, dim) after the transform of the student's head.
        weight: (vocabulary, dim) of the student's decoder.
        bias: (vocabulary,) of the student's decoder.
        labels: (rows,) original ids; -100 where there is nothing to predict.
        teacher: outputs for the same rows; None if the factors of `ce` and `mse` are 0.
    """
    assert teacher is not None or not (factors.ce or factors.mse)
    assert not factors.mse or isinstance(teacher, DenseTeacher)
    settings = _Settings(teacher, factors, temperature)
    loss, sums = _VocabularyLoss.apply(hidden, weight, bias, labels, settings)
    return loss, dict(zip(("ce", "mlm", "mse"), sums.unbind(), strict=True))


@dataclass(frozen=True)
class _Settings:
    teacher: DenseTeacher | SparseTeacher | None
    factors: Factors
    temperature: float


class _VocabularyLoss(torch.autograd.Function):
    """Computes the gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, settings: _Settings) -> Any:
        factors = settings.factors
        # Keep logit gradients near 1 so that they fit any dtype; multiply by the scale at the end.
        scale = max(factors.ce * settings.temperature, factors.mlm, 2 * factors.mse) or 1.0
        with torch.autocast(hidden.device.type, enabled=False):
            needs_gradient = any(ctx.needs_input_grad[:3])
            result = _run_chunks(hidden, weight, bias, labels, settings, scale, needs_gradient=needs_gradient)
        ctx.scale = scale
        ctx.save_for_backward(result.hidden, result.weight, result.bias)
        ctx.mark_non_differentiable(result.sums)
        weights = result.sums.new_tensor([factors.ce, factors.mlm, factors.mse])
        return (result.sums * weights).sum(), result.sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Any:
        scale = gradient.float() * ctx.scale
        hidden, weight, bias = ctx.saved_tensors
        return (hidden.float() * scale).to(hidden.dtype), weight * scale, bias * scale, None, None


@dataclass
class _Result:
    """Sums of the terms, and unscaled gradients of hidden states, matrix and bias."""

    sums: Tensor
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def _run_chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    settings: _Settings,
    scale: float,
    *,
    needs_gradient: bool,
) -> _Result:
    device, rows = hidden.device.type, len(hidden)
    matrix, inputs = weight.to(hidden.dtype), hidden.detach()
    result = _Result(torch.zeros(3, dtype=torch.float32, device=hidden.device), None, None, None)
    if needs_gradient:
        result.hidden = torch.empty_like(inputs)
        result.weight = torch.zeros_like(weight, dtype=torch.float32)
        result.bias = torch.zeros_like(bias, dtype=torch.float32)
    blocks = _Blocks(settings, scale, needs_gradient, _BLOCK_ROWS.get(device, 256))
    for start in range(0, rows, _CHUNK_ROWS.get(device, 1024)):
        chunk = slice(start, start + _CHUNK_ROWS.get(device, 1024))
        logits = torch.addmm(bias.to(hidden.dtype), inputs[chunk], matrix.T)
        teacher_logits = settings.teacher.chunk(chunk) if isinstance(settings.teacher, DenseTeacher) else None
        result.sums += blocks.run(logits, teacher_logits, labels[chunk], chunk)
        if result.hidden is not None and result.weight is not None and result.bias is not None:
            # `logits` now holds the gradient of the logits.
            torch.mm(logits, matrix, out=result.hidden[chunk])
            if logits.dtype == torch.float32:
                result.weight.addmm_(logits.T, inputs[chunk])
            else:
                result.weight += logits.T @ inputs[chunk]
            result.bias += logits.sum(dim=0, dtype=torch.float32)
    return result


@dataclass(frozen=True)
class _Blocks:
    """Computes the terms of a chunk, one block of rows at a time, and overwrites the logits with their gradient."""

    settings: _Settings
    scale: float
    needs_gradient: bool
    rows: int

    def run(self, logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, chunk: slice) -> Tensor:
        """Return the sums of `ce`, `mlm` and `mse` over the chunk, (3,)."""
        factors, has_label = self.settings.factors, labels != IGNORE_INDEX
        sums = torch.zeros(3, dtype=torch.float32, device=logits.device)
        for start in range(0, len(logits), self.rows):
            block = slice(start, start + self.rows)
            student = logits[block].float()
            labeled = has_label[block].nonzero().squeeze(1)
            labeled_logits = student[labeled] if len(labeled) else None  # copied before `student` is overwritten
            gradient = None
            if teacher_logits is not None:
                teacher = teacher_logits[block].float()
                if factors.mse:
                    gradient, sums[2] = self._squared_error(student, teacher, sums[2])
                if factors.ce:
                    gradient, sums[0] = self._dense_kl(student, teacher, gradient, sums[0])
            elif isinstance(self.settings.teacher, SparseTeacher) and factors.ce:
                first = (chunk.start or 0) + start
                gradient, sums[0] = self._sparse_kl(student, slice(first, first + len(student)), sums[0])
            if gradient is None:
                gradient = torch.zeros_like(student)
            if labeled_logits is not None:
                sums[1] += self._masked_lm(labeled_logits, labels[block][labeled], gradient, labeled)
            if self.needs_gradient:
                logits[block] = gradient
        return sums

    def _masked_lm(self, logits: Tensor, labels: Tensor, gradient: Tensor, rows: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=-1)
        index = torch.arange(len(rows), device=rows.device)
        loss = -log_p[index, labels].sum()
        if self.needs_gradient and self.settings.factors.mlm:
            row_gradient = log_p.exp_()
            row_gradient[index, labels] -= 1.0
            gradient.index_add_(0, rows, row_gradient, alpha=self.settings.factors.mlm / self.scale)
        return loss

    def _squared_error(self, student: Tensor, teacher: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        difference = student - teacher
        return difference * (2 * self.settings.factors.mse / self.scale), total + difference.square_().sum()

    def _dense_kl(
        self, student: Tensor, teacher: Tensor, gradient: Tensor | None, total: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient with that of the KL added, and the total; overwrites both logits."""
        t = self.settings.temperature
        student_p, student_sum = _softmax_in_place(student, t)
        teacher_p, teacher_sum = _softmax_in_place(teacher, t)
        # `student` and `teacher` now hold unnormalized log probabilities.
        teacher.sub_(student).sub_((teacher_sum / student_sum).log_())
        loss = teacher.mul_(teacher_p).sum() * t**2
        kl_gradient = self._kl_gradient(student_p, teacher_p)
        return kl_gradient if gradient is None else gradient.add_(kl_gradient), total + loss

    def _sparse_kl(self, student: Tensor, rows: slice, total: Tensor) -> tuple[Tensor, Tensor]:
        t, teacher = self.settings.temperature, self.settings.teacher
        assert isinstance(teacher, SparseTeacher)
        ids, log_p = teacher.ids[rows], teacher.log_probabilities[rows].float()
        student_p, student_sum = _softmax_in_place(student, t)
        student_log_p = student.gather(1, ids) - student_sum.log()
        p = log_p.exp()
        rest = teacher.rest[rows].clamp_min(torch.finfo(torch.float32).tiny)  # 0 if k is the vocabulary size
        target = student_p.scatter(1, ids, 0.0)
        student_rest = target.sum(1, keepdim=True).clamp_min(1e-20)
        loss = (p * (log_p - student_log_p)).sum() + (rest * (rest.log() - student_rest.log())).sum()
        target.mul_(rest / student_rest).scatter_(1, ids, p)
        return self._kl_gradient(student_p, target), total + loss * t**2

    def _kl_gradient(self, student_p: Tensor, target_p: Tensor) -> Tensor:
        """Return the gradient of the KL with respect to the logits; overwrites `student_p`."""
        return student_p.sub_(target_p).mul_(self.settings.temperature * self.settings.factors.ce / self.scale)


def _softmax_in_place(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the softened probabilities and their normalizer; `logits` becomes the unnormalized log probabilities."""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    if temperature != 1.0:
        logits.div_(temperature)
    probabilities = logits.exp()
    total = probabilities.sum(dim=-1, keepdim=True)
    return probabilities.div_(total), total
