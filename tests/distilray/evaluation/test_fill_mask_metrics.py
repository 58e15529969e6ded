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


def test_the_rank_counts_the_tokens_before_the_true_one():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0]] * 4)
    assert true_token_ranks(logits, torch.tensor([0, 1, 2, 3])).tolist() == [1, 4, 2, 3]


def test_ties_count_against_the_true_token():
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 9.0], [0.0, 7.0, 7.0]])
    assert true_token_ranks(logits, torch.tensor([1, 0, 2])).tolist() == [3, 3, 2]


def test_a_model_that_knows_nothing_gets_the_last_rank():
    assert true_token_ranks(torch.zeros(5, 40), torch.arange(5)).tolist() == [40] * 5


def scores_of(ranks, losses, pieces=None):
    """The scores of answers that are texts of their own."""
    columns = answer_columns(np.array(ranks), np.array(losses), np.array(pieces or [1] * len(ranks)))
    return ClusteredSample(np.arange(len(ranks)), columns).estimate(FILL_MASK_SCORES)


def test_hits_mrr_and_mean_and_median_rank_are_what_counting_by_hand_gives():
    scores = scores_of([1, 2, 5, 6, 10, 11, 1, 100], np.zeros(8))
    assert scores["hit@1"] == 2 / 8
    assert scores["hit@5"] == 4 / 8
    assert scores["hit@10"] == 6 / 8
    expected = (1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11 + 1 + 1 / 100) / 8
    assert scores["mrr"] == pytest.approx(expected, rel=1e-12)
    assert scores["mean_rank"] == 136 / 8
    assert scores["median_rank"] == 5.5


@pytest.mark.parametrize("vocabulary", [2, 30_522])
def test_the_pseudo_perplexity_of_a_uniform_model_is_its_vocabulary(vocabulary):
    losses = true_token_losses(torch.full((6, vocabulary), 3.0), torch.zeros(6, dtype=torch.long))
    assert scores_of([1] * 6, losses.numpy())["pseudo_perplexity"] == pytest.approx(vocabulary, rel=1e-5)


def test_the_pseudo_perplexity_is_the_geometric_mean_of_one_over_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.5], [0.125, 0.875]])
    losses = true_token_losses(probabilities.log(), torch.tensor([0, 0]))
    assert scores_of([1, 1], losses.numpy())["pseudo_perplexity"] == pytest.approx(math.sqrt(2 * 8), rel=1e-6)


def test_the_pseudo_perplexity_counts_pieces_and_not_answers():
    # One piece of probability 1/2; two pieces of 1/4 and 1/8: the third root of 2 * 4 * 8 is 4.
    scores = scores_of([1, 1], [math.log(2), math.log(4) + math.log(8)], pieces=[1, 2])
    assert scores["pseudo_perplexity"] == pytest.approx(4.0)


def test_a_certain_and_right_model_has_pseudo_perplexity_one():
    losses = true_token_losses(torch.tensor([[80.0, 0.0, 0.0]]), torch.tensor([0]))
    assert scores_of([1], losses.numpy())["pseudo_perplexity"] == pytest.approx(1.0)


def test_a_certain_and_wrong_model_has_a_finite_pseudo_perplexity():
    losses = true_token_losses(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
    assert math.isfinite(scores_of([1], losses.numpy())["pseudo_perplexity"])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.95, 96), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share, expected):
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected
