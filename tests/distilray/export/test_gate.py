import math

import numpy as np
import pytest

from distilray.config.export import GateConfig
from distilray.export.gate import (
    GateScores,
    MaskAnswers,
    answer_masks,
    compare_logits,
    gate_scores,
    gate_violations,
    parity_cases,
)
from distilray.pretraining_data.batches import Batch

GATE = GateConfig(min_agreement=0.9, max_perplexity_change=0.05)


class Model:
    """Logits as given, a row for each mask, the same for every batch."""

    config = None

    def __init__(self, logits):
        self.logits = np.array(logits, dtype=np.float32)

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        return self.logits[mask_index]


def batch(places, labels):
    ids = np.zeros((1, 3), dtype=np.int64)
    return Batch(ids, ids + 1, ids, np.array(places), np.array(labels))


def test_best_tokens_and_losses_are_those_of_the_masks_in_order():
    rows = []
    model = Model(np.log([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]))
    found = answer_masks(model, [batch([0, 2], [0, 2]), batch([1], [2])], rows.append)
    assert found.best.tolist() == [0, 1, 2]
    assert found.losses == pytest.approx(-np.log([0.5, 0.1, 0.6]), rel=1e-6)
    assert found.pseudo_perplexity == pytest.approx((0.5 * 0.1 * 0.6) ** (-1 / 3), rel=1e-6)
    assert rows == [1, 1]


def test_figures_are_the_share_of_equal_tokens_and_the_relative_change():
    source = MaskAnswers(np.array([1, 2, 3, 4]), np.full(4, math.log(10)))
    other = MaskAnswers(np.array([1, 2, 3, 9]), np.full(4, math.log(12)))
    figures = gate_scores(source, other)
    assert figures.agreement == 0.75
    assert figures.pseudo_perplexity == pytest.approx(12)
    assert figures.pseudo_perplexity_change == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("agreement", "change", "faults"),
    [
        (1.0, 0.0, 0),
        (0.9, 0.05, 0),
        (0.9, -0.05, 0),
        (0.899, 0.0, 1),
        (1.0, 0.051, 1),
        (1.0, -0.051, 1),  # a perplexity that falls by that much is no rounding either
        (0.5, 0.5, 2),
        (math.nan, math.nan, 2),
    ],
)
def test_each_bound_that_is_broken_is_a_fault(agreement, change, faults):
    assert len(gate_violations(GateScores(agreement, 10.0, change), GATE)) == faults


def test_a_fault_says_the_figure_and_the_bound():
    first, second = gate_violations(GateScores(0.5, 10.0, 0.25), GATE)
    assert "50.00%" in first
    assert "at least 90.00%" in first
    assert "+25.00%" in second
    assert "at most 5.00%" in second


class Shifted:
    """Logits that are the ids at the masks, plus something."""

    def __init__(self, plus=0.0):
        self.plus, self.config = plus, None

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        return np.repeat(input_ids.reshape(-1)[mask_index][:, None], 3, axis=1).astype(np.float32) + self.plus


@pytest.fixture
def cases():
    return parity_cases(vocabulary_size=50, max_length=64, seed=1)


def test_cases_cover_one_row_no_mask_padding_and_the_full_length(cases):
    shapes = [case.input_ids.shape for case in cases]
    assert any(rows == 1 for rows, _ in shapes)
    assert any(length == 64 for _, length in shapes)
    assert all(length <= 64 for _, length in shapes)
    assert any(len(case.mask_index) == 0 for case in cases)
    assert any((case.attention_mask == 0).any() for case in cases)
    assert any((case.token_type_ids == 1).any() for case in cases)
    assert len({case.input_ids.shape for case in cases}) >= 5


def test_masks_lie_on_tokens_and_padding_is_at_the_end(cases):
    for case in cases:
        assert case.attention_mask.reshape(-1)[case.mask_index].all()
        assert (np.diff(case.attention_mask, axis=1) <= 0).all()
        assert case.attention_mask[:, 0].all()


def test_the_difference_is_the_largest_of_all_logits(cases):
    assert {result.max_difference for result in compare_logits(Shifted(), Shifted(), cases, graph="onnx")} == {0.0}
    for case, result in zip(
        cases, compare_logits(Shifted(), Shifted(np.array([0, 0.5, -0.75])), cases, graph="onnx"), strict=True
    ):
        assert (result.batch, result.length) == case.input_ids.shape
        assert result.masks == len(case.mask_index)
        assert result.max_difference == (0.75 if result.masks else 0.0)


@pytest.mark.parametrize("plus", [np.nan, np.inf])
def test_what_is_no_number_is_as_far_away_as_can_be(cases, plus):
    results = compare_logits(Shifted(), Shifted(plus), cases, graph="onnx")
    assert all(result.max_difference > 1e30 for result in results if result.masks)
