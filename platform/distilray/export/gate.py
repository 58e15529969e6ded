"""Quality gate: compares the logits of ONNX graphs, and the predictions of smaller formats, with those of the model.

A graph must reproduce all logits of its model, also for shapes that it was not traced with. A smaller format may change
the best tokens and the pseudo-perplexity only within the limits of the recipe.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.export import GateConfig
from distilray.evaluation.fill_mask_metrics import true_token_losses
from distilray.inference.backends import MaskedLMBackend
from distilray.pretraining_data.batches import Batch
from distilray.runtime.seeding import generator

# (rows, tokens of the longest row, masks). Graphs tend to fail for one row, one mask, no mask, and the full length.
_SHAPES = ((1, 3, 1), (1, 17, 2), (3, 8, 0), (5, 9, 7), (4, 33, 6), (2, 128, 40), (1, 512, 20))


@dataclass(frozen=True)
class ParityResult:
    """Largest absolute difference between the logits of a graph and of the model, for one shape."""

    graph: str
    batch: int
    length: int
    masks: int
    max_difference: float


def parity_cases(*, vocabulary_size: int, max_length: int, seed: int) -> list[Batch]:
    """Return random batches of several shapes, up to the maximum length of the model, with rows of different lengths.

    Their labels are the ids themselves.
    """
    shapes = dict.fromkeys((rows, min(length, max_length), masks) for rows, length, masks in _SHAPES)
    return [_case(shape, vocabulary_size, generator(seed, number)) for number, shape in enumerate(shapes)]


def _case(shape: tuple[int, int, int], vocabulary_size: int, random: np.random.Generator) -> Batch:
    rows, length, masks = shape
    lengths = random.integers((length + 1) // 2, length, size=rows, endpoint=True)
    lengths[0] = length
    columns = np.arange(length)
    is_token = columns < lengths[:, None]
    types = (columns >= lengths[:, None] // 2) & is_token
    positions = np.flatnonzero(is_token)
    ids = random.integers(0, vocabulary_size, size=(rows, length))
    index = np.sort(random.choice(positions, min(masks, len(positions)), replace=False))
    return Batch(ids, is_token.astype(np.int64), types.astype(np.int64), index, ids.reshape(-1)[index])


def compare_logits(
    reference: MaskedLMBackend, exported: MaskedLMBackend, cases: Sequence[Batch], *, graph: str
) -> list[ParityResult]:
    """Compare the logits of two models case by case.

    A difference that is not finite is reported as the largest float.

    Args:
        graph: name of the exported model.
    """
    results = []
    for case in cases:
        inputs = (case.input_ids, case.attention_mask, case.mask_index, case.token_type_ids)
        expected, actual = reference.logits_at(*inputs), exported.logits_at(*inputs)
        difference = float(np.finfo(np.float32).max)
        if expected.shape == actual.shape and np.isfinite(actual).all():
            difference = float(np.abs(expected - actual).max(initial=0.0))
        batch, length = case.input_ids.shape
        results.append(ParityResult(graph, batch, length, len(case.mask_index), difference))
    return results


@dataclass(frozen=True)
class MaskPredictions:
    """Predictions of a model at every mask of a text.

    Attributes:
        best: (masks,) ids of the most probable tokens.
        losses: (masks,) negative log probability of the true token, in nats.
    """

    best: NDArray[np.int64]
    losses: NDArray[np.float64]

    @property
    def pseudo_perplexity(self) -> float:
        """Exponential of the mean loss over the masks."""
        return math.exp(min(float(self.losses.mean()), 700.0))


@dataclass(frozen=True)
class GateScores:
    """Quality of a format compared with its model.

    Attributes:
        agreement: share of masks with the same best token.
        pseudo_perplexity: pseudo-perplexity of the format.
        pseudo_perplexity_change: change relative to the model; negative if lower.
    """

    agreement: float
    pseudo_perplexity: float
    pseudo_perplexity_change: float


def predict_masks(model: MaskedLMBackend, batches: Sequence[Batch], on_batch: Callable[[int], None]) -> MaskPredictions:
    """Predict every mask of a text.

    Args:
        on_batch: called after each batch with its number of rows.
    """
    best, losses = [], []
    for batch in batches:
        logits = model.logits_at(batch.input_ids, batch.attention_mask, batch.mask_index, batch.token_type_ids)
        best.append(logits.argmax(axis=1))
        batch_losses = true_token_losses(torch.from_numpy(logits), torch.from_numpy(batch.mask_labels))
        losses.append(batch_losses.double().numpy())
        on_batch(len(batch.input_ids))
    return MaskPredictions(np.concatenate(best), np.concatenate(losses))


def gate_scores(model: MaskPredictions, exported: MaskPredictions) -> GateScores:
    """Compare the predictions of a format with those of its model."""
    return GateScores(
        agreement=float((model.best == exported.best).mean()),
        pseudo_perplexity=exported.pseudo_perplexity,
        pseudo_perplexity_change=exported.pseudo_perplexity / model.pseudo_perplexity - 1,
    )


def gate_violations(scores: GateScores, gate: GateConfig) -> list[str]:
    """Describe the limits that a format exceeds; empty if it may be published. NaN always exceeds a limit."""
    violations = []
    if not scores.agreement >= gate.min_agreement:
        violations.append(f"same best token at {scores.agreement:.2%} of the masks (at least {gate.min_agreement:.2%})")
    if not abs(scores.pseudo_perplexity_change) <= gate.max_perplexity_change:
        change = f"{scores.pseudo_perplexity_change:+.2%}"
        violations.append(f"pseudo-perplexity changed by {change} (at most {gate.max_perplexity_change:.2%})")
    return violations
