"""Comparison of an exported model with its source: logits of ONNX graphs, and answers of formats with fewer bits.

A graph must compute all logits of its model, also at shapes that it was not traced with. A format with fewer bits may
change the best token and the pseudo-perplexity by as much as the recipe allows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.export import GateConfig
from distilray.evaluation.fill_mask_metrics import true_token_losses
from distilray.inference.backends import MaskedLMBackend
from distilray.pretraining_data.batches import Batch
from distilray.runtime.seeding import generator

# Rows, tokens of the longest row, masks. One row, one token, no mask and the full length are what graphs break on.
_SHAPES = ((1, 3, 1), (1, 17, 2), (3, 8, 0), (5, 9, 7), (4, 33, 6), (2, 128, 40), (1, 512, 20))


@dataclass(frozen=True)
class ParityCase:
    """Inputs of one shape; rows end at different lengths, the rest is padding."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    mask_index: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


@dataclass(frozen=True)
class ParityResult:
    """The largest absolute difference of a graph's logits from those of the model at one shape."""

    graph: str
    batch: int
    length: int
    masks: int
    max_difference: float


def parity_cases(*, vocabulary_size: int, max_length: int, seed: int) -> list[ParityCase]:
    """Random inputs of several shapes, as long as the model reads."""
    shapes = dict.fromkeys((rows, min(length, max_length), masks) for rows, length, masks in _SHAPES)
    return [_case(shape, vocabulary_size, generator(seed, number)) for number, shape in enumerate(shapes)]


def _case(shape: tuple[int, int, int], vocabulary_size: int, random: np.random.Generator) -> ParityCase:
    rows, length, masks = shape
    lengths = random.integers((length + 1) // 2, length, size=rows, endpoint=True)
    lengths[0] = length
    columns = np.arange(length)
    is_token = columns < lengths[:, None]
    types = (columns >= lengths[:, None] // 2) & is_token
    places = np.flatnonzero(is_token)
    return ParityCase(
        input_ids=random.integers(0, vocabulary_size, size=(rows, length)),
        attention_mask=is_token.astype(np.int64),
        mask_index=np.sort(random.choice(places, min(masks, len(places)), replace=False)),
        token_type_ids=types.astype(np.int64),
    )


def compare_logits(
    reference: MaskedLMBackend, exported: MaskedLMBackend, cases: Sequence[ParityCase], *, graph: str
) -> list[ParityResult]:
    """Compare the logits of two models, case by case; the largest float stands for no number.

    Args:
        graph: name of the exported model.
    """
    return list(_compared(reference, exported, cases, graph))


def _compared(
    reference: MaskedLMBackend, exported: MaskedLMBackend, cases: Sequence[ParityCase], graph: str
) -> Iterator[ParityResult]:
    for case in cases:
        inputs = (case.input_ids, case.attention_mask, case.mask_index, case.token_type_ids)
        expected, actual = reference.logits_at(*inputs), exported.logits_at(*inputs)
        difference = float(np.finfo(np.float32).max)
        if expected.shape == actual.shape and np.isfinite(actual).all():
            difference = float(np.abs(expected - actual).max(initial=0.0))
        batch, length = case.input_ids.shape
        yield ParityResult(graph, batch, length, len(case.mask_index), difference)


@dataclass(frozen=True)
class MaskAnswers:
    """Answers of a model at every mask of a text.

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
class GateScores:
    """A format beside its model.

    Attributes:
        agreement: share of masks with the same best token.
        pseudo_perplexity: of the format.
        pseudo_perplexity_change: relative to the model's; negative when it is lower.
    """

    agreement: float
    pseudo_perplexity: float
    pseudo_perplexity_change: float


def answer_masks(model: MaskedLMBackend, batches: Sequence[Batch], moved: Callable[[int], None]) -> MaskAnswers:
    """Asks a model for every mask.

    Args:
        moved: called after each batch with its rows.
    """
    best, losses = [], []
    for batch in batches:
        logits = model.logits_at(batch.input_ids, batch.attention_mask, batch.mask_index, batch.token_type_ids)
        best.append(logits.argmax(axis=1))
        per_mask = true_token_losses(torch.from_numpy(logits), torch.from_numpy(batch.mask_labels))
        losses.append(per_mask.double().numpy())
        moved(len(batch.input_ids))
    return MaskAnswers(np.concatenate(best), np.concatenate(losses))


def gate_scores(source: MaskAnswers, other: MaskAnswers) -> GateScores:
    """Return how far a format is from its model."""
    return GateScores(
        agreement=float((source.best == other.best).mean()),
        pseudo_perplexity=other.pseudo_perplexity,
        pseudo_perplexity_change=other.pseudo_perplexity / source.pseudo_perplexity - 1,
    )


def gate_violations(figures: GateScores, gate: GateConfig) -> list[str]:
    """The bounds that a format does not keep, in words; none when it may be published. What is no number is a fault."""
    faults = []
    if not figures.agreement >= gate.min_agreement:
        faults.append(f"same best token at {figures.agreement:.2%} of the masks (at least {gate.min_agreement:.2%})")
    if not abs(figures.pseudo_perplexity_change) <= gate.max_perplexity_change:
        change = f"{figures.pseudo_perplexity_change:+.2%}"
        faults.append(f"pseudo-perplexity changed by {change} (at most {gate.max_perplexity_change:.2%})")
    return faults
