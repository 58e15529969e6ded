"""Losses on the vocabulary: value and gradient in one pass, without materializing the logits of all tokens.

Rows go through the output matrix of the head in chunks. The logits of a chunk are computed once, and their gradient is
multiplied into the gradients of the hidden states and of the matrix. A compiled function computes the gradient of a
chunk without storing anything in fp32; otherwise only a block of rows is ever held in fp32. The gradient is exact:

    ce:  T^2 x KL(teacher || student) of the distributions softened by T (DistilBERT paper, section 2)
    mlm: cross entropy with the original ids, at the rows that have a label
    mse: sum of the squared differences of the logits
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distilray.distillation.vocabulary_terms import (
    Formula,
    StudentLogits,
    fused_vocabulary_terms,
    put_columns,
    vocabulary_terms,
)

# Rows whose logits exist at the same time, in the dtype of the forward pass: 512 x 30,522 in bf16 take 31 MB, as much
# again for the teacher, and for the gradient if it is computed by the compiled function.
CHUNK_ROWS = {"cpu": 512, "cuda": 4096}
# Rows that are converted to fp32 at the same time without compilation. On a CPU they must fit in the cache; on a GPU
# they bound the memory, 125 MB for each intermediate result.
BLOCK_ROWS = {"cpu": 16, "cuda": 1024}
# Padding of the vocabulary. The fastest kernels of cuBLAS and Triton need rows that start at multiples of 16 bytes.
_VOCABULARY_MULTIPLE = {"cuda": 64}
_PADDING_LOGIT = -30000.0  # representable in fp16; its probability is 0 at any usual temperature


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

    def targets(self, rows: slice) -> Tensor:
        """Return the logits of some rows, (rows, vocabulary)."""
        return torch.addmm(self.bias, self.hidden[rows].to(self.weight.dtype), self.weight.T)


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

    def targets(self, rows: slice) -> Tensor:
        """Return log probabilities of some rows: of the k tokens and, last, of all others together, (rows, k + 1)."""
        rest = self.rest[rows].clamp_min(torch.finfo(torch.float32).tiny)  # 0 if k is the size of the vocabulary
        return torch.cat([self.log_probabilities[rows].float(), rest.log()], dim=1)


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
    compiled: bool = False,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the weighted sum of the terms, and the unweighted sum of each term over the rows.

    Args:
        hidden: (rows, dim) after the transform of the student's head.
        weight: (vocabulary, dim) of the student's decoder.
        bias: (vocabulary,) of the student's decoder.
        labels: (rows,) original ids; -100 where there is nothing to predict.
        teacher: outputs for the same rows; None if the factors of `ce` and `mse` are 0.
        compiled: compute terms and gradients with a compiled function; its first call takes seconds.
    """
    assert teacher is not None or not (factors.ce or factors.mse)
    assert not factors.mse or isinstance(teacher, DenseTeacher)
    if not (factors.ce or factors.mse):
        teacher = None
    settings = _Settings(teacher, factors, temperature, compiled)
    loss, sums = _VocabularyLoss.apply(hidden, weight, bias, labels, settings)
    return loss, dict(zip(("ce", "mlm", "mse"), sums.unbind(), strict=True))


@dataclass(frozen=True)
class _Settings:
    teacher: DenseTeacher | SparseTeacher | None
    factors: Factors
    temperature: float
    compiled: bool


class _VocabularyLoss(torch.autograd.Function):
    """Computes the gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, settings: _Settings) -> Any:
        factors, device = settings.factors, hidden.device
        of_gradients = (factors.ce * settings.temperature, factors.mlm, 2 * factors.mse)
        # Keep logit gradients near 1 so that they fit any dtype; multiply by the scale at the end.
        scale = max(of_gradients) or 1.0
        with torch.autocast(device.type, enabled=False):
            matrix, offsets = _pad(weight.to(hidden.dtype), bias.to(hidden.dtype))
            gradients = _Gradients.zeros(hidden, matrix) if any(ctx.needs_input_grad[:3]) else None
            scaled = _vector([factor / scale for factor in of_gradients], device)
            sums = _run_chunks(hidden.detach(), matrix, offsets, labels, settings, scaled, gradients)
        ctx.scale = scale
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden, gradients.weight[: len(weight)], gradients.bias[: len(bias)])
        ctx.mark_non_differentiable(sums)
        return (sums * _vector([factors.ce, factors.mlm, factors.mse], device)).sum(), sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Any:
        scale = gradient.float() * ctx.scale
        hidden, weight, bias = ctx.saved_tensors
        return (hidden.float() * scale).to(hidden.dtype), weight * scale, bias * scale, None, None


@dataclass(frozen=True)
class _Gradients:
    """Unscaled gradients of the hidden states (in their dtype), and of matrix and bias in fp32."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def zeros(cls, hidden: Tensor, matrix: Tensor) -> "_Gradients":
        weight = torch.zeros_like(matrix, dtype=torch.float32)
        return cls(torch.empty_like(hidden), weight, weight.new_zeros(len(weight)))

    def add(self, rows: slice, logits: Tensor, inputs: Tensor, matrix: Tensor) -> None:
        """Add the contribution of some rows, from the gradient of their logits."""
        torch.mm(logits, matrix, out=self.hidden[rows])
        if logits.dtype == torch.float32:
            self.weight.addmm_(logits.T, inputs)
        elif logits.is_cuda and rows.start == 0:
            torch.mm(logits.T, inputs, out_dtype=torch.float32, out=self.weight)
        elif logits.is_cuda:
            self.weight.add_(torch.mm(logits.T, inputs, out_dtype=torch.float32))
        else:  # `out_dtype` is only available on CUDA
            self.weight.add_(logits.T @ inputs)
        self.bias.add_(logits.sum(dim=0, dtype=torch.float32))


def _run_chunks(
    hidden: Tensor,
    matrix: Tensor,
    bias: Tensor,
    labels: Tensor,
    settings: _Settings,
    factors: Tensor,
    gradients: _Gradients | None,
) -> Tensor:
    """Return the sums of `ce`, `mlm` and `mse` over all rows, (3,), and complete the gradients."""
    teacher, chunk_rows = settings.teacher, CHUNK_ROWS[hidden.device.type]
    if isinstance(teacher, DenseTeacher):
        teacher = DenseTeacher(teacher.hidden, *_pad(teacher.weight, teacher.bias.to(teacher.weight.dtype)))
    sums = torch.zeros(3, dtype=torch.float32, device=hidden.device)
    for start in range(0, len(hidden), chunk_rows):
        rows = slice(start, start + chunk_rows)
        student = StudentLogits.of(
            torch.addmm(bias, hidden[rows], matrix.T),
            labels[rows],
            teacher.ids[rows] if isinstance(teacher, SparseTeacher) else None,
        )
        targets = None if teacher is None else teacher.targets(rows)
        gradient, chunk_sums = _run_blocks(student, targets, settings, factors)
        sums += chunk_sums
        if gradients is not None:
            gradients.add(rows, gradient, hidden[rows], matrix)
        del student, targets, gradient  # before the logits of the next chunk are computed
    return sums


def _run_blocks(
    student: StudentLogits, targets: Tensor | None, settings: _Settings, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the logits of a chunk, and the sums of the terms; overwrites the logits."""
    formula = Formula(bool(settings.factors.ce), bool(settings.factors.mse), settings.temperature)
    device, rows = factors.device, len(student.labels)
    parts: Sequence[Tensor] = student.parts
    if settings.compiled and rows > 1:
        gradients, sums = fused_vocabulary_terms(student, targets, factors, formula)
        parts = tuple(gradients)
    else:
        sums, block_rows = torch.zeros_like(factors), BLOCK_ROWS[device.type]
        for start in range(0, rows, block_rows):
            block = slice(start, start + block_rows)
            logits = student.select(block)
            gradients, block_sums = vocabulary_terms(
                logits._replace(parts=tuple(part.float() for part in logits.parts)),
                None if targets is None else targets[block].float(),
                factors,
                formula,
                only_labeled=device.type == "cpu",
            )
            sums += block_sums
            for part, gradient in zip(parts, gradients, strict=True):
                part[block] = gradient
    if student.ids is not None:
        put_columns(parts[0], student.ids, parts[1])
    return parts[0], sums


def _pad(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return an output matrix and its bias with more rows, for tokens with probability 0."""
    padding = -len(weight) % _VOCABULARY_MULTIPLE.get(weight.device.type, 1)
    if not padding:
        return weight, bias
    return F.pad(weight, (0, 0, 0, padding)), F.pad(bias, (0, padding), value=_PADDING_LOGIT)


def _vector(values: Sequence[float], device: torch.device) -> Tensor:
    """Return an fp32 tensor. Unlike `torch.tensor`, this does not copy from the host, which a GPU would wait for."""
    return torch.stack([torch.full((), value, dtype=torch.float32, device=device) for value in values])
