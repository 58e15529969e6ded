"""One micro-step: a batch through student and teacher to the weighted loss, normalised over the global step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distilray.config.distillation import LossConfig
from distilray.distillation.objective.losses import attention_mse, hidden_cosine, hidden_mse, value_relation_kl
from distilray.distillation.objective.vocabulary import NO_LABEL, DenseTeacher, Factors, vocabulary_loss
from distilray.models.layer_taps import EMBEDDINGS, LayerTaps, default_layer_map
from distilray.models.masked_lm import decoder, encode, transformed
from distilray.pretraining_data.batches import Batch

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
        self._pairs: list[tuple[int, int]] = []
        if teacher is not None and losses.uses_layers:
            self._pairs = losses.layer_map or default_layer_map(
                teacher.config.num_hidden_layers, model.config.num_hidden_layers
            )
            self._taps = LayerTaps(model, [student for student, _ in self._pairs])
            self._teacher_taps = LayerTaps(teacher, [layer for _, layer in self._pairs])

    def forward(self, batch: TensorBatch, counts: StepCounts) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a micro-batch, and its unweighted terms; both add up over a step to the means of the step."""
        with torch.autocast(
            batch.input_ids.device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None
        ):
            return self._terms(batch, counts, *self._encode(batch))

    @property
    def score_names(self) -> list[str]:
        """What `score` gives, by name."""
        has_teacher = self._frozen[0] is not None
        terms = [name for name, alpha in self._losses.alphas.items() if alpha and (has_teacher or name == "mlm")]
        return ["loss", *{*terms, "mlm"}, "hit@1", *(["agreement"] if has_teacher else [])]

    @torch.no_grad()
    def score(
        self, batch: TensorBatch, counts: StepCounts
    ) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Loss and terms as `forward` gives them, and the shares of masked tokens whose best token is right.

        `hit@1` is right when it is the original one, `agreement` when it is the teacher's.
        """
        with torch.autocast(
            batch.input_ids.device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None
        ):
            hidden, teacher_hidden = self._encode(batch)
            loss, terms = self._terms(batch, counts, hidden, teacher_hidden)
            best = _best_tokens(self.model, hidden, batch.mask_index)
            hits = {"hit@1": (best == batch.mask_labels).sum() / counts.masked}
            if teacher_hidden is not None:
                other = _best_tokens(self._frozen[0], teacher_hidden, batch.mask_index)
                hits["agreement"] = (best == other).sum() / counts.masked
        return loss, terms, hits

    def _encode(self, batch: TensorBatch) -> tuple[Tensor, Tensor | None]:
        """The last hidden states of the model, and of the teacher if there is one."""
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        if self._frozen[0] is None:
            return encode(self.model, *inputs), None
        with torch.no_grad():
            teacher_hidden = encode(self._frozen[0], *inputs)
        return encode(self.model, *inputs), teacher_hidden

    def _terms(
        self, batch: TensorBatch, counts: StepCounts, hidden: Tensor, teacher_hidden: Tensor | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses = self._losses
        loss, terms = self._vocabulary_terms(batch, counts, hidden, teacher_hidden)
        further: dict[str, Tensor] = {}
        if teacher_hidden is not None and losses.alpha_cos:
            real = batch.attention_mask.bool()
            further["cos"] = hidden_cosine(hidden[real], teacher_hidden[real]) / counts.tokens
        if self._pairs:
            further |= self._layer_terms(batch.attention_mask, counts)
            self._taps.clear()
            self._teacher_taps.clear()
        for name, term in further.items():
            loss = loss + losses.alphas[name] * term
        return loss, {**terms, **{name: term.detach() for name, term in further.items()}}

    def _vocabulary_terms(
        self, batch: TensorBatch, counts: StepCounts, hidden: Tensor, teacher_hidden: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`mlm`, and with a teacher `ce` and `mse`, at every real token or at the masked ones only."""
        losses, teacher = self._losses, self._frozen[0]
        compared = teacher_hidden is not None and bool(losses.alpha_ce or losses.alpha_mse)
        everywhere = compared and losses.ce_positions == "all"
        rows = batch.attention_mask.flatten().nonzero().squeeze(1) if everywhere else batch.mask_index
        labels = _dense_labels(batch)[rows] if everywhere else batch.mask_labels
        at = {"ce": counts.tokens if everywhere else counts.masked, "mlm": counts.masked}
        at["mse"] = at["ce"]
        used = {name: bool(losses.alphas[name]) and (name == "mlm" or compared) for name in at}
        theirs = None
        if compared:
            assert teacher_hidden is not None
            last = decoder(teacher)
            with torch.no_grad():
                theirs = DenseTeacher(transformed(teacher, _rows(teacher_hidden, rows)), last.weight, last.bias)
        own = decoder(self.model)
        loss, sums = vocabulary_loss(
            transformed(self.model, _rows(hidden, rows)).to(self._autocast_dtype or torch.float32),
            own.weight,
            own.bias,
            labels,
            teacher=theirs,
            factors=Factors(**{name: losses.alphas[name] / at[name] if used[name] else 0.0 for name in at}),
            temperature=losses.temperature,
        )
        shown = {"mlm"} | {name for name in at if used[name]}
        return loss, {name: sums[name] / at[name] for name in at if name in shown}

    def _layer_terms(self, mask: Tensor, counts: StepCounts) -> dict[str, Tensor]:
        losses, real = self._losses, mask.bool()
        sums: dict[str, list[Tensor]] = {}
        for student, teacher in self._pairs:
            own, other = ((taps, layer) for taps, layer in ((self._taps, student), (self._teacher_taps, teacher)))
            if losses.alpha_hidden:
                ours, theirs = (taps.hidden(layer)[real] for taps, layer in (own, other))
                sums.setdefault("hidden", []).append(hidden_mse(ours, theirs) / counts.tokens)
            if EMBEDDINGS in (student, teacher):
                continue
            if losses.alpha_attention:
                one, two = (
                    (taps.projection("queries", layer), taps.projection("keys", layer)) for taps, layer in (own, other)
                )
                sums.setdefault("attention", []).append(attention_mse(one, two, mask) / counts.pairs)
            if losses.alpha_values:
                ours, theirs = (taps.projection("values", layer) for taps, layer in (own, other))
                sums.setdefault("values", []).append(value_relation_kl(ours, theirs, mask) / counts.tokens)
        return {name: torch.stack(found).mean() for name, found in sums.items()}


def _rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """(rows, dim) of hidden states (batch, length, dim)."""
    return hidden.flatten(0, 1).index_select(0, rows)


def _best_tokens(model: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    """(rows,) the most probable token at some places."""
    return decoder(model)(transformed(model, _rows(hidden, rows))).argmax(dim=-1)


def _dense_labels(batch: TensorBatch) -> Tensor:
    labels = torch.full_like(batch.input_ids.flatten(), NO_LABEL)
    labels[batch.mask_index] = batch.mask_labels
    return labels
