import math

import numpy as np
import pytest

from distilray.config.export import GateConfig
from distilray.export.gate import (
    GateScores,
    MaskPredictions,
    ParityResult,
    compare_logits,
    gate_scores,
    gate_violations,
    parity_cases,
    predict_masks,
)
from distilray.pretraining_data.batches import Batch


class FixedModel:
    """Backend with fixed logits, one row per mask, the same for every batch."""

    def __init__(self, logits):
        self.logits = np.array(logits, dtype=np.float32)

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        return self.logits[mask_index]


def batch(positions, labels):
    ids = np.zeros((1, 3), dtype=np.int64)
    return Batch(ids, ids + 1, ids, np.array(positions), np.array(labels))


def test_best_tokens_and_losses_are_those_of_the_masks_in_order():
    rows = []
    model = FixedModel(np.log([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]))
    predictions = predict_masks(model, [batch([0, 2], [0, 2]), batch([1], [2])], rows.append)
    assert predictions.best.tolist() == [0, 1, 2]
    assert predictions.losses == pytest.approx(-np.log([0.5, 0.1, 0.6]), rel=1e-6)
    assert predictions.pseudo_perplexity == pytest.approx((0.5 * 0.1 * 0.6) ** (-1 / 3), rel=1e-6)
    assert rows == [1, 1]


def test_scores_are_the_share_of_equal_tokens_and_the_relative_change():
    model = MaskPredictions(np.array([1, 2, 3, 4]), np.full(4, math.log(10)))
    exported = MaskPredictions(np.array([1, 2, 3, 9]), np.full(4, math.log(12)))
    scores = gate_scores(model, exported)
    assert scores.agreement == 0.75
    assert scores.pseudo_perplexity == pytest.approx(12)
    assert scores.pseudo_perplexity_change == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("agreement", "change", "violations"),
    [
        (1.0, 0.0, []),
        (0.9, 0.05, []),
        (0.9, -0.05, []),
        (0.8999, 0.0, ["same best token at 89.99% of the masks (at least 90.00%)"]),
        (1.0, 0.0501, ["pseudo-perplexity changed by +5.01% (at most 5.00%)"]),
        (1.0, -0.0501, ["pseudo-perplexity changed by -5.01% (at most 5.00%)"]),  # too much for rounding as well
        (math.nan, math.nan, ["same best token at nan%", "pseudo-perplexity changed by +nan%"]),
    ],
)
def test_each_exceeded_limit_is_a_violation_with_the_score_and_the_limit(agreement, change, violations):
    gate = GateConfig(min_agreement=0.9, max_perplexity_change=0.05)
    messages = gate_violations(GateScores(agreement, 10.0, change), gate)
    assert len(messages) == len(violations)
    assert all(map(str.startswith, messages, violations))


class ShiftedModel:
    """Backend whose logits are the ids at the masks plus a constant."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        return np.repeat(input_ids.reshape(-1)[mask_index][:, None], 3, axis=1).astype(np.float32) + self.shift


@pytest.fixture
def cases():
    return parity_cases(vocabulary_size=50, max_length=64, seed=1)


def test_the_cases_include_one_row_no_mask_padding_and_the_maximum_length(cases):
    shapes = [(*case.input_ids.shape, len(case.mask_index)) for case in cases]
    assert shapes == [(1, 3, 1), (1, 17, 2), (3, 8, 0), (5, 9, 7), (4, 33, 6), (2, 64, 40), (1, 64, 20)]
    assert any((case.attention_mask == 0).any() for case in cases)
    assert any((case.token_type_ids == 1).any() for case in cases)
    assert {number for case in cases for number in case.input_ids.flat} == set(range(50))


def test_masks_are_at_tokens_and_padding_is_at_the_end(cases):
    for case in cases:
        assert case.attention_mask.reshape(-1)[case.mask_index].all()
        assert (np.diff(case.mask_index) > 0).all()
        assert (np.diff(case.attention_mask, axis=1) <= 0).all()
        assert case.attention_mask[0].all()
        assert (case.attention_mask.sum(axis=1) >= case.attention_mask.shape[1] / 2).all()
        assert (case.token_type_ids <= case.attention_mask).all()


@pytest.mark.parametrize(
    ("shift", "difference"),
    [(0.0, 0.0), ([0, 0.5, -0.75], 0.75), (np.nan, 3.4028235e38), (np.inf, 3.4028235e38)],
    ids=["equal", "shifted", "nan", "inf"],
)
def test_the_difference_is_the_largest_of_all_logits(cases, shift, difference):
    results = compare_logits(ShiftedModel(), ShiftedModel(np.array(shift, np.float32)), cases, graph="onnx")
    for case, result in zip(cases, results, strict=True):
        masks = len(case.mask_index)
        assert result == ParityResult("onnx", *case.input_ids.shape, masks, pytest.approx(difference if masks else 0.0))


def test_logits_of_another_shape_differ(cases):
    class Narrow(ShiftedModel):
        def logits_at(self, *inputs):
            return super().logits_at(*inputs)[:, :1]

    assert compare_logits(ShiftedModel(), Narrow(), cases[:1], graph="onnx")[0].max_difference > 1e30
