"""Teacher outputs for a training step: computed from the batch, or read from a cache."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from distilray.distillation.vocabulary_loss import DenseTeacher, SparseTeacher
from distilray.models.heads import apply_head_transform, decoder, vocabulary_logits

_MAX_INT8 = 127


@dataclass(frozen=True)
class CachedTargets:
    """Cached outputs of a teacher for one batch, in the types of `schemas.TEACHER_TARGETS`.

    They are converted to other types where they are used, so that little is copied to a GPU.

    Attributes:
        hidden: (tokens, dim) last hidden states of the real tokens, divided by their scales, in int8. This and `scales`
            have no rows if the loss does not use hidden states.
        scales: (tokens, 1) scales of the hidden states, in fp32.
        ids: (rows, k) most probable tokens, best first, in uint16. Rows are the real tokens or the masked ones.
        log_probabilities: (rows, k) log probabilities of these tokens at the temperature of the cache, in fp16.
        rest: (rows, 1) probability of all other tokens, in fp32.
    """

    hidden: Tensor
    scales: Tensor
    ids: Tensor
    log_probabilities: Tensor
    rest: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "CachedTargets":
        return CachedTargets(*(tensor.to(device, non_blocking=non_blocking) for tensor in vars(self).values()))

    def pin_memory(self) -> "CachedTargets":
        return CachedTargets(*(tensor.pin_memory() for tensor in vars(self).values()))


def sample_tokens(
    probabilities: Tensor, *, top_k: int, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the most probable tokens and a sample of the others as `most_probable` does; nothing remains.

    The expected weight of every token is its probability, because of priority sampling (Duffield et al. 2007): the
    tokens with the largest p / u, where u is uniform, have the weight max(p, the next such quotient).
    """
    top, ids = probabilities.topk(top_k, dim=-1)
    others = probabilities.scatter(1, ids, -1.0)  # the top tokens are never drawn
    uniform = torch.rand(others.shape, generator=generator, device=others.device).clamp_min_(1e-12)
    quotients, drawn = (others / uniform).topk(samples + 1, dim=-1)
    weights = torch.maximum(others.gather(1, drawn[:, :-1]), quotients[:, -1:])
    log_weights = torch.cat([top, weights], dim=1).log().clamp_min(torch.finfo(torch.float16).min)
    return torch.cat([ids, drawn[:, :-1]], dim=1), log_weights.half(), torch.zeros_like(top[:, :1])


def most_probable(logits: Tensor, *, top_k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the most probable tokens of logits (rows, vocabulary).

    Returns:
        ids, (rows, k); log probabilities in fp16, (rows, k); probability of all other tokens in fp32, (rows, 1).
    """
    log_p = (logits.float() / temperature).log_softmax(dim=-1)
    best, ids = log_p.topk(top_k, dim=-1)
    rest = log_p.exp_().scatter_(1, ids, 0.0).sum(dim=1, keepdim=True)
    return ids, best.clamp_min(torch.finfo(torch.float16).min).half(), rest


def quantize(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden states (tokens, dim) in int8, and their scales (tokens, 1) in fp32."""
    hidden = hidden.float()
    scales = hidden.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / _MAX_INT8  # a token of zeros must not give NaN
    return (hidden / scales).round().to(torch.int8), scales


class Teacher(Protocol):
    """Outputs of a teacher for one batch."""

    def token_states(self) -> Tensor:
        """Return the last hidden states of the real tokens, (tokens, dim)."""

    def targets(self, rows: Tensor) -> DenseTeacher | SparseTeacher:
        """Return the targets for `vocabulary_loss` at some positions of the flattened batch."""

    def best_tokens(self) -> Tensor:
        """Return the most probable token at each masked position, (masked,)."""


@dataclass(frozen=True)
class LiveTeacher:
    """Outputs of a teacher model that has just processed the batch.

    Attributes:
        states: (batch, length, dim) last hidden states.
        token_index: (tokens,) positions of the real tokens in the flattened batch.
        mask_index: (masked,) positions of the masked tokens.
        compiled: compile the transform of the head.
    """

    model: Any
    states: Tensor
    token_index: Tensor
    mask_index: Tensor
    compiled: bool = False

    def token_states(self) -> Tensor:
        return select_rows(self.states, self.token_index)

    @torch.no_grad()
    def targets(self, rows: Tensor) -> DenseTeacher:
        output, states = decoder(self.model), select_rows(self.states, rows)
        hidden = apply_head_transform(self.model, states, compiled=self.compiled)
        return DenseTeacher(hidden, output.weight, output.bias)

    def best_tokens(self) -> Tensor:
        return best_tokens(self.model, self.states, self.mask_index)


@dataclass(frozen=True)
class CachedTeacher:
    """Outputs of a teacher from a cache.

    Attributes:
        at_all_tokens: True if the cache has targets for all real tokens, False if only for the masked ones.
        token_index: (tokens,) positions of the real tokens in the flattened batch, in ascending order.
        mask_index: (masked,) positions of the masked tokens.
    """

    cached: CachedTargets
    at_all_tokens: bool
    token_index: Tensor
    mask_index: Tensor

    def token_states(self) -> Tensor:
        return self.cached.hidden * self.cached.scales

    def targets(self, rows: Tensor) -> SparseTeacher:
        assert len(rows) == len(self.cached.ids)
        log_p, rest = self.cached.log_probabilities.float(), self.cached.rest
        # In 16 bits they do not add up to 1 - rest.
        log_p = log_p + (torch.log1p(-rest) - log_p.logsumexp(dim=1, keepdim=True))
        return SparseTeacher(self.cached.ids.long(), log_p, rest)

    def best_tokens(self) -> Tensor:
        best = self.cached.ids[:, 0].long()
        if not self.at_all_tokens:
            return best
        return best.index_select(0, torch.searchsorted(self.token_index, self.mask_index))


def select_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Return hidden states (batch, length, dim) at some distinct positions of the flattened batch, (rows, dim).

    The positions are in ascending order.
    """
    flat = states.flatten(0, 1)
    return flat if len(rows) == len(flat) else flat.index_select(0, rows)


def best_tokens(model: Any, states: Tensor, rows: Tensor) -> Tensor:
    """Return the most probable tokens at some positions of the flattened batch, (rows,)."""
    return vocabulary_logits(model, select_rows(states, rows)).argmax(dim=-1)
