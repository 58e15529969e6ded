"""Training objective: the weighted loss of a micro-batch, normalized over the global step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
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
    select_rows,
)
from distilray.distillation.vocabulary_loss import Factors, vocabulary_loss
from distilray.distillation.vocabulary_terms import IGNORE_INDEX
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
class LossDivisors:
    """Divisors of the loss sums of a micro-batch. The terms of all micro-batches of a step then add up to means.

    Attributes:
        tokens: real tokens.
        masked: masked tokens.
        pairs: pairs of real tokens of the same example.
    """

    tokens: float
    masked: float
    pairs: float = 1.0

    def of(self, loss: Loss) -> float:
        """Return the divisor of a loss."""
        divisor: float = getattr(self, loss.per)
        return divisor


@dataclass(frozen=True)
class TensorBatch:
    """A `Batch` as tensors, with the cached outputs of the teacher if a cache is used.

    Indices are computed on the host. To compute them on a GPU, the host would have to wait for their number.

    Attributes:
        token_index: (tokens,) positions of the real tokens in the flattened batch, in ascending order.
        token_labels: (tokens,) their original ids; -100 where there is nothing to predict.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    mask_index: Tensor
    mask_labels: Tensor
    token_index: Tensor
    token_labels: Tensor
    cached: CachedTargets | None = None

    @classmethod
    def of(cls, batch: Batch, cached: CachedTargets | None = None, *, pinned: bool = False) -> "TensorBatch":
        """Convert a batch on the host. Pinned memory can be copied to a GPU while the GPU computes."""
        token_index = np.flatnonzero(batch.attention_mask)
        labels = np.full(batch.attention_mask.size, IGNORE_INDEX)
        labels[batch.mask_index] = batch.mask_labels
        arrays = {**vars(batch), "token_index": token_index, "token_labels": labels[token_index]}
        tensors = cls(**{name: torch.from_numpy(values) for name, values in arrays.items()}, cached=cached)
        return tensors._map(lambda field: field.pin_memory()) if pinned else tensors

    @property
    def has_padding(self) -> bool:
        return len(self.token_index) < self.attention_mask.numel()

    def encode(self, model: Any) -> Tensor:
        """Return the last hidden states of a model, (batch, length, dim)."""
        return encode(model, self.input_ids, self.attention_mask, self.token_type_ids, has_padding=self.has_padding)

    def to(self, device: torch.device) -> "TensorBatch":
        return self._map(lambda field: field.to(device, non_blocking=True))

    def _map(self, function: Callable[[Any], Any]) -> "TensorBatch":
        return TensorBatch(**{name: function(field) for name, field in vars(self).items() if field is not None})


class DistillationLoss(nn.Module):
    """Forward pass of the model in training, up to the loss.

    The model is the only submodule. DDP wraps the whole module, so that the loss is part of its forward pass.

    Args:
        model: the model to train.
        teacher: frozen teacher; None for masked language modeling alone, or if the batches contain its cached outputs.
        dtype: dtype of the matrix products.
        cached: True if the batches contain cached outputs of the teacher.
        compiled: compile the transforms of the heads.
        compiled_loss: compile the loss on the vocabulary.
    """

    def __init__(
        self,
        model: Any,
        teacher: Any | None,
        losses: LossConfig,
        dtype: torch.dtype = torch.float32,
        *,
        cached: bool = False,
        compiled: bool = False,
        compiled_loss: bool = False,
    ) -> None:
        super().__init__()
        assert not (cached and (teacher is not None or losses.alpha_mse or losses.layer_alphas))
        self._has_teacher = cached or teacher is not None
        self.model = model
        self._frozen = (teacher,)  # a tuple hides it from torch, which would train, save and synchronize a submodule
        self._losses = losses
        self._used = [LOSSES[name] for name, alpha in losses.alphas.items() if alpha]
        self._dtype, self._compiled, self._compiled_loss = dtype, compiled, compiled_loss
        self._layer_pairs: list[tuple[int, int]] = []
        if teacher is not None and losses.layer_alphas:
            self._layer_pairs = losses.layer_map or default_layer_map(
                teacher.config.num_hidden_layers, model.config.num_hidden_layers
            )
            self._student_outputs = LayerOutputs(model, [student for student, _ in self._layer_pairs])
            self._teacher_outputs = LayerOutputs(teacher, [layer for _, layer in self._layer_pairs])

    def forward(self, batch: TensorBatch, divisors: LossDivisors) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a micro-batch and its unweighted terms; over a step, both add up to the step's means."""
        with autocast(batch.input_ids.device, self._dtype):
            return self._terms(batch, divisors, *self._encode(batch))

    @property
    def score_names(self) -> list[str]:
        """Names of the values that `score` returns."""
        terms = [loss.name for loss in self._used if self._has_teacher or not loss.needs_teacher]
        return ["loss", *dict.fromkeys([*terms, "mlm"]), "hit@1", *(["agreement"] if self._has_teacher else [])]

    @torch.no_grad()
    def score(
        self, batch: TensorBatch, divisors: LossDivisors
    ) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Return the loss and terms as `forward` does, and two accuracies at the masked tokens.

        `hit@1` is the share of masked tokens whose most probable token is the original one, `agreement` the share whose
        most probable token is that of the teacher.
        """
        with autocast(batch.input_ids.device, self._dtype):
            hidden, teacher = self._encode(batch)
            loss, terms = self._terms(batch, divisors, hidden, teacher)
            best = best_tokens(self.model, hidden, batch.mask_index)
            hits = {"hit@1": (best == batch.mask_labels).sum() / divisors.masked}
            if teacher is not None:
                hits["agreement"] = (best == teacher.best_tokens()).sum() / divisors.masked
        return loss, terms, hits

    def _encode(self, batch: TensorBatch) -> tuple[Tensor, Teacher | None]:
        """Return the last hidden states of the model, and the teacher's outputs if there is a teacher."""
        teacher = self._teacher(batch)
        return batch.encode(self.model), teacher

    def _teacher(self, batch: TensorBatch) -> Teacher | None:
        assert (batch.cached is not None) == (self._has_teacher and self._frozen[0] is None)
        if batch.cached is not None:
            at_all_tokens = self._losses.compared_positions == "all"
            return CachedTeacher(batch.cached, at_all_tokens, batch.token_index, batch.mask_index)
        if self._frozen[0] is None:
            return None
        with torch.no_grad():
            states = batch.encode(self._frozen[0])
        return LiveTeacher(self._frozen[0], states, batch.token_index, batch.mask_index, self._compiled)

    def _terms(
        self, batch: TensorBatch, divisors: LossDivisors, hidden: Tensor, teacher: Teacher | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses = self._losses
        total, terms = self._vocabulary_terms(batch, divisors, hidden, teacher)
        hidden_terms: dict[str, Tensor] = {}
        last_hidden = [loss for loss in self._used if loss.compares == "last_hidden"]
        if teacher is not None and last_hidden:
            states = select_rows(hidden, batch.token_index), teacher.token_states()
            hidden_terms = {loss.name: loss(*states, batch.attention_mask) / divisors.of(loss) for loss in last_hidden}
        if self._layer_pairs:
            hidden_terms |= self._layer_terms(batch.attention_mask, divisors)
            self._student_outputs.clear()
            self._teacher_outputs.clear()
        for name, term in hidden_terms.items():
            total = total + losses.alphas[name] * term
        return total, {**terms, **{name: term.detach() for name, term in hidden_terms.items()}}

    def _vocabulary_terms(
        self, batch: TensorBatch, divisors: LossDivisors, hidden: Tensor, teacher: Teacher | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the terms on the vocabulary, at all real tokens or only the masked ones; `mlm` is always included."""
        losses = self._losses
        is_compared = teacher is not None and bool(losses.alpha_ce or losses.alpha_mse)
        at_all_tokens = is_compared and losses.compared_positions == "all"
        rows, labels = batch.mask_index, batch.mask_labels
        if at_all_tokens:
            rows, labels = batch.token_index, batch.token_labels
        candidates = [loss for loss in LOSSES.values() if loss.compares == "vocabulary"]
        divisor_of = {loss.name: divisors.of(loss) if at_all_tokens else divisors.masked for loss in candidates}
        is_used = {loss.name: loss in self._used and (is_compared or not loss.needs_teacher) for loss in candidates}
        output = decoder(self.model)
        loss, sums = vocabulary_loss(
            apply_head_transform(self.model, select_rows(hidden, rows), compiled=self._compiled).to(self._dtype),
            output.weight,
            output.bias,
            labels,
            teacher=teacher.targets(rows) if is_compared and teacher is not None else None,
            factors=Factors(
                **{
                    name: losses.alphas[name] / divisor if is_used[name] else 0.0
                    for name, divisor in divisor_of.items()
                }
            ),
            temperature=losses.temperature,
            compiled=self._compiled_loss,
        )
        terms = {name: sums[name] / divisor for name, divisor in divisor_of.items() if is_used[name] or name == "mlm"}
        return loss, terms

    def _layer_terms(self, mask: Tensor, divisors: LossDivisors) -> dict[str, Tensor]:
        """Return the layer-wise terms, averaged over the layer pairs. Embeddings only have hidden states."""
        layer_wise = [loss for loss in self._used if loss.compares in _LAYER_OUTPUTS]
        terms: dict[str, list[Tensor]] = {}
        for student, teacher in self._layer_pairs:
            for loss in layer_wise:
                if EMBEDDINGS in (student, teacher) and loss.compares != "hidden":
                    continue
                outputs_of = _LAYER_OUTPUTS[loss.compares]
                outputs = outputs_of(self._student_outputs, student), outputs_of(self._teacher_outputs, teacher)
                terms.setdefault(loss.name, []).append(loss(*outputs, mask) / divisors.of(loss))
        return {name: torch.stack(values).mean() for name, values in terms.items()}
