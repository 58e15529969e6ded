import math

import pytest
import torch

from distilray.evaluation.metrics import (
    agreement,
    fill_mask_scores,
    percentile,
    true_token_losses,
    true_token_ranks,
)


def test_the_rank_counts_the_tokens_before_the_true_one():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0]] * 4)
    assert true_token_ranks(logits, torch.tensor([0, 1, 2, 3])).tolist() == [1, 4, 2, 3]


def test_ties_count_against_the_true_token():
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 9.0], [0.0, 7.0, 7.0]])
    assert true_token_ranks(logits, torch.tensor([1, 0, 2])).tolist() == [3, 3, 2]


def test_a_model_that_knows_nothing_gets_the_last_rank():
    assert true_token_ranks(torch.zeros(5, 40), torch.arange(5)).tolist() == [40] * 5


def test_hits_and_mrr_are_what_counting_by_hand_gives():
    scores = fill_mask_scores(torch.tensor([1, 2, 5, 6, 10, 11, 1, 100]), torch.zeros(8))
    assert scores["hit@1"] == 2 / 8
    assert scores["hit@5"] == 4 / 8
    assert scores["hit@10"] == 6 / 8
    expected = (1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11 + 1 + 1 / 100) / 8
    assert scores["mrr"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("vocabulary", [2, 30_522])
def test_the_pseudo_perplexity_of_a_uniform_model_is_its_vocabulary(vocabulary):
    losses = true_token_losses(torch.full((6, vocabulary), 3.0), torch.zeros(6, dtype=torch.long))
    scores = fill_mask_scores(torch.ones(6, dtype=torch.long), losses)
    assert scores["pseudo_perplexity"] == pytest.approx(vocabulary, rel=1e-5)


def test_the_pseudo_perplexity_is_the_geometric_mean_of_one_over_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.5], [0.125, 0.875]])
    losses = true_token_losses(probabilities.log(), torch.tensor([0, 0]))
    assert fill_mask_scores(torch.ones(2), losses)["pseudo_perplexity"] == pytest.approx(math.sqrt(2 * 8), rel=1e-6)


def test_a_certain_and_right_model_has_pseudo_perplexity_one():
    losses = true_token_losses(torch.tensor([[80.0, 0.0, 0.0]]), torch.tensor([0]))
    assert fill_mask_scores(torch.ones(1), losses)["pseudo_perplexity"] == pytest.approx(1.0)


def test_a_certain_and_wrong_model_has_a_finite_pseudo_perplexity():
    losses = true_token_losses(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
    assert math.isfinite(fill_mask_scores(torch.ones(1), losses)["pseudo_perplexity"])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.95, 96), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share, expected):
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_agreement_is_the_share_of_equal_entries():
    assert agreement(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 9, 4])) == 0.75
