import math

import numpy as np
import pytest
import torch

from distilray.evaluation.fill_mask_metrics import (
    FILL_MASK_SCORES,
    answer_columns,
    percentile,
    true_token_losses,
    true_token_ranks,
)
from distilray.statistics import ClusteredSample


@pytest.mark.parametrize(
    ("logits", "labels", "ranks"),
    [
        ([[5.0, 1.0, 3.0, 2.0]] * 4, [0, 1, 2, 3], [1, 4, 2, 3]),
        ([[1.0, 1.0, 1.0], [2.0, 2.0, 9.0], [0.0, 7.0, 7.0]], [1, 0, 2], [3, 3, 2]),
        ([[0.0] * 40] * 2, [0, 39], [40, 40]),
    ],
    ids=["distinct", "ties count against the true token", "uniform"],
)
def test_the_rank_counts_the_tokens_before_the_true_one(logits, labels, ranks):
    assert true_token_ranks(torch.tensor(logits), torch.tensor(labels)).tolist() == ranks


def scores_of(ranks, losses, pieces=None):
    """Return the scores of answers in separate texts."""
    columns = answer_columns(np.array(ranks), np.array(losses), np.array(pieces or [1] * len(ranks)))
    return ClusteredSample(np.arange(len(ranks)), columns).estimate(FILL_MASK_SCORES)


def test_the_scores_of_ranks_follow_their_formulas():
    scores = scores_of([1, 2, 5, 6, 10, 11, 1, 100], np.zeros(8))
    assert [scores[f"hit@{k}"] for k in (1, 5, 10)] == [2 / 8, 4 / 8, 6 / 8]
    assert (scores["mean_rank"], scores["median_rank"]) == (136 / 8, 5.5)
    expected = (1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11 + 1 + 1 / 100) / 8
    assert scores["mrr"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "perplexity"),
    [
        ([[3.0] * 2] * 6, 2),
        ([[3.0] * 30_522] * 6, 30_522),
        ([[math.log(0.5), math.log(0.5)], [math.log(0.125), math.log(0.875)]], math.sqrt(2 * 8)),
        ([[80.0, 0.0, 0.0]], 1.0),
    ],
    ids=["uniform, 2 tokens", "uniform, 30522 tokens", "geometric mean", "certain"],
)
def test_the_pseudo_perplexity_is_the_geometric_mean_of_inverse_probabilities(logits, perplexity):
    losses = true_token_losses(torch.tensor(logits), torch.zeros(len(logits), dtype=torch.long))
    assert scores_of([1] * len(logits), losses.numpy())["pseudo_perplexity"] == pytest.approx(perplexity, rel=1e-5)


def test_the_pseudo_perplexity_counts_pieces_and_is_finite():
    # One piece of probability 1/2; two pieces of 1/4 and 1/8: the third root of 2 * 4 * 8 is 4.
    scores = scores_of([1, 1], [math.log(2), math.log(4) + math.log(8)], pieces=[1, 2])
    assert scores["pseudo_perplexity"] == pytest.approx(4.0)
    losses = true_token_losses(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
    assert math.isfinite(scores_of([1], losses.numpy())["pseudo_perplexity"])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.95, 96), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share, expected):
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected
