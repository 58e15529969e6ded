"""One micro-step: a batch through student and teacher to the weighted loss, normalised over the global step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distilray.config.distillation import LossConfig
from distilray.distillation.losses import distillation_kl, hidden_cosine, masked_lm
from distilray.models.masked_lm import encode, vocabulary_logits
from distilray.pretraining_data.batches import Batch

MASKED_LM_ONLY = LossConfig(alpha_ce=0.0, alpha_mlm=1.0, alpha_cos=0.0)
# Rows of the vocabulary head that are alive at once: 1,024 x 30,522 logits in fp32 are 125 MB.
_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class StepCounts:
    """Tokens of a whole optimiser step, over all workers and micro-steps: what the loss sums are divided by."""

    tokens: int
    masked: int


@dataclass(frozen=True)
class TensorBatch:
    """A `Batch` as tensors."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    mask_index: Tensor
    mask_labels: Tensor

    @classmethod
    def of(cls, batch: Batch, *, pinned: bool = False) -> "TensorBatch":
        """The batch on the host; pinned memory is copied to a GPU while the GPU works."""
        tensors = [torch.from_numpy(values) for values in vars(batch).values()]
        return cls(*([tensor.pin_memory() for tensor in tensors] if pinned else tensors))

    def to(self, device: torch.device) -> "TensorBatch":
        """The batch on a device."""
        return TensorBatch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


class DistillationStep(nn.Module):
    """Holds the trained model as its only submodule, so that DDP wraps the forward pass and its loss.

    Args:
        model: the model that is trained.
        teacher: frozen, or None for masked language modelling alone.
        autocast_dtype: dtype of the forward passes; None is fp32.
    """

    def __init__(self, model: Any, teacher: Any | None, losses: LossConfig, autocast_dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self._frozen = (teacher,)  # in a tuple, so that it is no submodule: not trained, not saved, not synchronised
        self._losses = losses
        self._autocast_dtype = autocast_dtype

    def forward(self, batch: TensorBatch, counts: StepCounts) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a micro-batch, and its unweighted terms; both add up over a step to the means of the step."""
        with torch.autocast(
            batch.input_ids.device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None
        ):
            return self._terms(batch, counts)

    def _terms(self, batch: TensorBatch, counts: StepCounts) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses, teacher = self._losses, self._frozen[0]
        hidden = encode(self.model, batch.input_ids, batch.attention_mask, batch.token_type_ids)
        teacher_hidden = None
        if teacher is not None:
            with torch.no_grad():
                teacher_hidden = encode(teacher, batch.input_ids, batch.attention_mask, batch.token_type_ids)
        terms: dict[str, Tensor] = {}
        if teacher_hidden is not None and losses.alpha_cos:
            real = batch.attention_mask.bool()
            terms["cos"] = hidden_cosine(hidden[real], teacher_hidden[real]) / counts.tokens
        at_masks = losses.ce_positions == "masked" or not losses.alpha_ce
        rows = batch.mask_index if at_masks else batch.attention_mask.flatten().nonzero().squeeze(1)
        labels = batch.mask_labels if at_masks else _dense_labels(batch)[rows]
        kl, mlm = self._vocabulary_terms(
            hidden.flatten(0, 1)[rows],
            None if teacher_hidden is None else teacher_hidden.flatten(0, 1)[rows],
            labels,
        )
        terms["mlm"] = mlm / counts.masked
        if teacher_hidden is not None and losses.alpha_ce:
            terms["ce"] = kl / (counts.masked if at_masks else counts.tokens)
        weights = {"ce": losses.alpha_ce, "mlm": losses.alpha_mlm, "cos": losses.alpha_cos}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _vocabulary_terms(self, hidden: Tensor, teacher_hidden: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        """KL and masked LM sums; with many rows in chunks whose logits are computed again for the gradient."""
        if len(hidden) <= _CHUNK_ROWS:
            return self._chunk_terms(hidden, teacher_hidden, labels)
        kl = mlm = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            teacher_part = None if teacher_hidden is None else teacher_hidden[part]
            chunk_kl, chunk_mlm = checkpoint(
                self._chunk_terms, hidden[part], teacher_part, labels[part], use_reentrant=False
            )
            kl, mlm = kl + chunk_kl, mlm + chunk_mlm
        return kl, mlm

    def _chunk_terms(self, hidden: Tensor, teacher_hidden: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = vocabulary_logits(self.model, hidden)
        kl = logits.new_zeros((), dtype=torch.float32)
        if teacher_hidden is not None and self._losses.alpha_ce:
            with torch.no_grad():
                teacher_logits = vocabulary_logits(self._frozen[0], teacher_hidden)
            kl = distillation_kl(logits, teacher_logits, self._losses.temperature)
        return kl, masked_lm(logits, labels)


def _dense_labels(batch: TensorBatch) -> Tensor:
    labels = torch.full_like(batch.input_ids.flatten(), -100)
    labels[batch.mask_index] = batch.mask_labels
    return labels
