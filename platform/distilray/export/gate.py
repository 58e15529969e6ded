"""The gate of formats with fewer bits: how often their best token and how far their perplexity is that of the model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.export import GateConfig
from distilray.evaluation.metrics import true_token_losses
from distilray.inference.backends import MaskedLogits
from distilray.pretraining_data.batches import Batch


@dataclass(frozen=True)
class MaskAnswers:
    """What a model says at every mask of a text.

    Attributes:
        best: (masks,) ids of the most probable tokens.
        losses: (masks,) negative log probability of the true token, in nats.
    """

    best: NDArray[np.int64]
    losses: NDArray[np.float64]

    @property
    def pseudo_perplexity(self) -> float:
        """Exponential of the mean loss, over the masks only."""
        return math.exp(min(float(self.losses.mean()), 700.0))


@dataclass(frozen=True)
class GateFigures:
    """A format beside its model.

    Attributes:
        agreement: share of masks with the same best token.
        pseudo_perplexity: of the format.
        pseudo_perplexity_change: relative to the model's; negative when it is lower.
    """

    agreement: float
    pseudo_perplexity: float
    pseudo_perplexity_change: float


def answer_masks(model: MaskedLogits, batches: Sequence[Batch], moved: Callable[[int], None]) -> MaskAnswers:
    """Asks a model for every mask.

    Args:
        moved: called after each batch with its rows.
    """
    best, losses = [], []
    for batch in batches:
        logits = model.logits_at(batch.input_ids, batch.attention_mask, batch.mask_index, batch.token_type_ids)
        best.append(logits.argmax(axis=1))
        found = true_token_losses(torch.from_numpy(logits), torch.from_numpy(batch.mask_labels))
        losses.append(found.double().numpy())
        moved(len(batch.input_ids))
    return MaskAnswers(np.concatenate(best), np.concatenate(losses))


def gate_figures(source: MaskAnswers, other: MaskAnswers) -> GateFigures:
    """What a format has lost."""
    return GateFigures(
        agreement=float((source.best == other.best).mean()),
        pseudo_perplexity=other.pseudo_perplexity,
        pseudo_perplexity_change=other.pseudo_perplexity / source.pseudo_perplexity - 1,
    )


def gate_faults(figures: GateFigures, gate: GateConfig) -> list[str]:
    """The bounds that a format does not keep, in words; none when it may be published. What is no number is a fault."""
    faults = []
    if not figures.agreement >= gate.min_agreement:
        faults.append(f"same best token at {figures.agreement:.2%} of the masks (at least {gate.min_agreement:.2%})")
    if not abs(figures.pseudo_perplexity_change) <= gate.max_perplexity_change:
        change = f"{figures.pseudo_perplexity_change:+.2%}"
        faults.append(f"pseudo-perplexity changed by {change} (at most {gate.max_perplexity_change:.2%})")
    return faults
