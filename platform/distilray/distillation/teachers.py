"""What a step asks of its teacher: computed from the batch, or read from a cache."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from distilray.distillation.vocabulary_loss import DenseTeacher, SparseTeacher
from distilray.models.heads import apply_head_transform, decoder


@dataclass(frozen=True)
class CachedTargets:
    """What a cache holds of a teacher for a batch.

    Attributes:
        hidden: (tokens, dim) last hidden states of the real tokens, in 16 bits.
        ids: (rows, k) most probable tokens, best first: at the real tokens, or at the masked ones.
        log_probabilities: (rows, k) of these tokens, softened, in fp32.
    """

    hidden: Tensor
    ids: Tensor
    log_probabilities: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "CachedTargets":
        """The targets on a device."""
        return CachedTargets(*(tensor.to(device, non_blocking=non_blocking) for tensor in vars(self).values()))

    def pin_memory(self) -> "CachedTargets":
        """The targets in memory that is copied to a GPU while the GPU works."""
        return CachedTargets(*(tensor.pin_memory() for tensor in vars(self).values()))


class Teacher(Protocol):
    """A teacher's answers for one batch."""

    def hidden_at_tokens(self) -> Tensor:
        """(tokens, dim) last hidden states of the real tokens."""

    def targets(self, rows: Tensor) -> DenseTeacher | SparseTeacher:
        """What `vocabulary_loss` takes for some places of the flattened batch."""

    def best_tokens(self) -> Tensor:
        """(masked,) the most probable token at each masked place."""


@dataclass(frozen=True)
class LiveTeacher:
    """Answers of a model that has seen the batch.

    Attributes:
        states: (batch, length, dim) its last hidden states.
        mask: (batch, length), nonzero at real tokens.
        mask_index: (masked,) places in the flattened batch.
    """

    model: Any
    states: Tensor
    mask: Tensor
    mask_index: Tensor

    def hidden_at_tokens(self) -> Tensor:
        return self.states[self.mask.bool()]

    @torch.no_grad()
    def targets(self, rows: Tensor) -> DenseTeacher:
        last = decoder(self.model)
        return DenseTeacher(apply_head_transform(self.model, rows_of(self.states, rows)), last.weight, last.bias)

    def best_tokens(self) -> Tensor:
        return best_tokens(self.model, self.states, self.mask_index)


@dataclass(frozen=True)
class CachedTeacher:
    """Answers from a cache.

    Attributes:
        cached: its ids lie at the places that are compared.
        everywhere: these are all real tokens, not the masked ones only.
        mask: (batch, length), nonzero at real tokens.
        mask_index: (masked,) places in the flattened batch.
    """

    cached: CachedTargets
    everywhere: bool
    mask: Tensor
    mask_index: Tensor

    def hidden_at_tokens(self) -> Tensor:
        return self.cached.hidden

    def targets(self, rows: Tensor) -> SparseTeacher:
        assert len(rows) == len(self.cached.ids)
        return SparseTeacher(self.cached.ids.long(), self.cached.log_probabilities)

    def best_tokens(self) -> Tensor:
        best = self.cached.ids[:, 0].long()
        return best[self.mask.flatten().cumsum(0)[self.mask_index] - 1] if self.everywhere else best


def rows_of(states: Tensor, rows: Tensor) -> Tensor:
    """(rows, dim) of hidden states (batch, length, dim)."""
    return states.flatten(0, 1).index_select(0, rows)


def best_tokens(model: Any, states: Tensor, rows: Tensor) -> Tensor:
    """(rows,) the most probable token of a model at some places of its hidden states."""
    return decoder(model)(apply_head_transform(model, rows_of(states, rows))).argmax(dim=-1)
