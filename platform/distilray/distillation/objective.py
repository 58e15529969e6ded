"""One micro-step: a batch through student and teacher to the weighted loss, normalised over the global step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distilray.config.distillation import LossConfig
from distilray.distillation.losses import LOSSES, Loss
from distilray.distillation.teachers import (
    CachedTargets,
    CachedTeacher,
    LiveTeacher,
    Teacher,
    best_tokens,
    rows_of,
)
from distilray.distillation.vocabulary_loss import NO_LABEL, Factors, vocabulary_loss
from distilray.models.heads import apply_head_transform, decoder
from distilray.models.layer_outputs import EMBEDDINGS, LayerOutputs, default_layer_map
from distilray.models.masked_lm import encode
from distilray.models.precision import autocast
from distilray.pretraining_data.batches import Batch

_LAYER_OUTPUTS: Mapping[str, Callable[[LayerOutputs, int], Any]] = {
    "hidden": LayerOutputs.hidden,
    "attention": lambda outputs, layer: (outputs.projection("queries", layer), outputs.projection("keys", layer)),
    "values": lambda outputs, layer: outputs.projection("values", layer),
}
MASKED_LM_ONLY = LossConfig(alpha_ce=0.0, alpha_mlm=1.0, alpha_cos=0.0)


@dataclass(frozen=True)
class StepCounts:
    """What the sums of a micro-batch are divided by, so that they add up over workers and micro-steps to means.

    Attributes:
        tokens, masked: real tokens, and those to predict.
        pairs: pairs of real tokens of one example.
    """

    tokens: float
    masked: float
    pairs: float = 1.0

    def of(self, loss: Loss) -> float:
        """Return what the sum of a loss is divided by."""
        count: float = getattr(self, loss.per)
        return count


@dataclass(frozen=True)
class TensorBatch:
    """A `Batch` as tensors, with what a cache holds of its teacher, if there is one."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    mask_index: Tensor
    mask_labels: Tensor
    cached: CachedTargets | None = None

    @classmethod
    def of(cls, batch: Batch, cached: CachedTargets | None = None, *, pinned: bool = False) -> "TensorBatch":
        """The batch on the host; pinned memory is copied to a GPU while the GPU works."""
        found = cls(**{name: torch.from_numpy(values) for name, values in vars(batch).items()}, cached=cached)
        return found._each(lambda part: part.pin_memory()) if pinned else found

    def to(self, device: torch.device) -> "TensorBatch":
        """The batch on a device."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def _each(self, change: Callable[[Any], Any]) -> "TensorBatch":
        return TensorBatch(**{name: change(part) for name, part in vars(self).items() if part is not None})


class DistillationStep(nn.Module):
    """Holds the trained model as its only submodule, so that DDP wraps the forward pass and its loss.

    Args:
        model: the model that is trained.
        teacher: frozen, or None for masked language modelling alone, and where the batches carry a cache of it.
        dtype: of the matrix products.
        cached: the batches carry what a cache holds of the teacher.
    """

    def __init__(
        self,
        model: Any,
        teacher: Any | None,
        losses: LossConfig,
        dtype: torch.dtype = torch.float32,
        *,
        cached: bool = False,
    ) -> None:
        super().__init__()
        assert not (cached and (teacher is not None or losses.alpha_mse or losses.layer_alphas))
        self._has_teacher = cached or teacher is not None
        self.model = model
        self._frozen = (teacher,)  # in a tuple, so that it is no submodule: not trained, not saved, not synchronised
        self._losses = losses
        self._used = [LOSSES[name] for name, alpha in losses.alphas.items() if alpha]
        self._dtype = dtype
        self._pairs: list[tuple[int, int]] = []
        if teacher is not None and losses.layer_alphas:
            self._pairs = losses.layer_map or default_layer_map(
                teacher.config.num_hidden_layers, model.config.num_hidden_layers
            )
            self._student_outputs = LayerOutputs(model, [student for student, _ in self._pairs])
            self._teacher_outputs = LayerOutputs(teacher, [layer for _, layer in self._pairs])

    def forward(self, batch: TensorBatch, counts: StepCounts) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a micro-batch, and its unweighted terms; both add up over a step to the means of the step."""
        with autocast(batch.input_ids.device, self._dtype):
            return self._terms(batch, counts, *self._encode(batch))

    @property
    def score_names(self) -> list[str]:
        """What `score` gives, by name."""
        terms = [loss.name for loss in self._used if self._has_teacher or not loss.needs_teacher]
        return ["loss", *dict.fromkeys([*terms, "mlm"]), "hit@1", *(["agreement"] if self._has_teacher else [])]

    @torch.no_grad()
    def score(
        self, batch: TensorBatch, counts: StepCounts
    ) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Loss and terms as `forward` gives them, and the shares of masked tokens whose best token is right.

        `hit@1` is right when it is the original one, `agreement` when it is the teacher's.
        """
        with autocast(batch.input_ids.device, self._dtype):
            hidden, teacher = self._encode(batch)
            loss, terms = self._terms(batch, counts, hidden, teacher)
            best = best_tokens(self.model, hidden, batch.mask_index)
            hits = {"hit@1": (best == batch.mask_labels).sum() / counts.masked}
            if teacher is not None:
                hits["agreement"] = (best == teacher.best_tokens()).sum() / counts.masked
        return loss, terms, hits

    def _encode(self, batch: TensorBatch) -> tuple[Tensor, Teacher | None]:
        """The last hidden states of the model, and the teacher's answers if there is one."""
        teacher = self._teacher(batch)
        return encode(self.model, batch.input_ids, batch.attention_mask, batch.token_type_ids), teacher

    def _teacher(self, batch: TensorBatch) -> Teacher | None:
        assert (batch.cached is not None) == (self._has_teacher and self._frozen[0] is None)
        if batch.cached is not None:
            everywhere = self._losses.compared_positions == "all"
            return CachedTeacher(batch.cached, everywhere, batch.attention_mask, batch.mask_index)
        if self._frozen[0] is None:
            return None
        with torch.no_grad():
            states = encode(self._frozen[0], batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return LiveTeacher(self._frozen[0], states, batch.attention_mask, batch.mask_index)

    def _terms(
        self, batch: TensorBatch, counts: StepCounts, hidden: Tensor, teacher: Teacher | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses = self._losses
        loss, terms = self._vocabulary_terms(batch, counts, hidden, teacher)
        further: dict[str, Tensor] = {}
        last_hidden = [loss for loss in self._used if loss.compares == "last_hidden"]
        if teacher is not None and last_hidden:
            ours, theirs = hidden[batch.attention_mask.bool()], teacher.hidden_at_tokens()
            further = {loss.name: loss(ours, theirs, batch.attention_mask) / counts.of(loss) for loss in last_hidden}
        if self._pairs:
            further |= self._layer_terms(batch.attention_mask, counts)
            self._student_outputs.clear()
            self._teacher_outputs.clear()
        for name, term in further.items():
            loss = loss + losses.alphas[name] * term
        return loss, {**terms, **{name: term.detach() for name, term in further.items()}}

    def _vocabulary_terms(
        self, batch: TensorBatch, counts: StepCounts, hidden: Tensor, teacher: Teacher | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Terms on the vocabulary, at every real token or at the masked ones only; `mlm` is always among them."""
        losses = self._losses
        compared = teacher is not None and bool(losses.alpha_ce or losses.alpha_mse)
        everywhere = compared and losses.compared_positions == "all"
        rows = batch.attention_mask.flatten().nonzero().squeeze(1) if everywhere else batch.mask_index
        labels = _dense_labels(batch)[rows] if everywhere else batch.mask_labels
        fused = [loss for loss in LOSSES.values() if loss.compares == "vocabulary"]
        at = {loss.name: counts.of(loss) if everywhere else counts.masked for loss in fused}
        used = {loss.name: loss in self._used and (compared or not loss.needs_teacher) for loss in fused}
        own = decoder(self.model)
        loss, sums = vocabulary_loss(
            apply_head_transform(self.model, rows_of(hidden, rows)).to(self._dtype),
            own.weight,
            own.bias,
            labels,
            teacher=teacher.targets(rows) if compared and teacher is not None else None,
            factors=Factors(**{name: losses.alphas[name] / at[name] if used[name] else 0.0 for name in at}),
            temperature=losses.temperature,
        )
        shown = {"mlm"} | {name for name in at if used[name]}
        return loss, {name: sums[name] / at[name] for name in at if name in shown}

    def _layer_terms(self, mask: Tensor, counts: StepCounts) -> dict[str, Tensor]:
        """Means over the pairs of layers; the embeddings have hidden states only."""
        layer_wise = [loss for loss in self._used if loss.compares in _LAYER_OUTPUTS]
        sums: dict[str, list[Tensor]] = {}
        for student, teacher in self._pairs:
            for loss in layer_wise:
                if EMBEDDINGS in (student, teacher) and loss.compares != "hidden":
                    continue
                compared = _LAYER_OUTPUTS[loss.compares]
                own, other = compared(self._student_outputs, student), compared(self._teacher_outputs, teacher)
                sums.setdefault(loss.name, []).append(loss(own, other, mask) / counts.of(loss))
        return {name: torch.stack(found).mean() for name, found in sums.items()}


def _dense_labels(batch: TensorBatch) -> Tensor:
    labels = torch.full_like(batch.input_ids.flatten(), NO_LABEL)
    labels[batch.mask_index] = batch.mask_labels
    return labels
