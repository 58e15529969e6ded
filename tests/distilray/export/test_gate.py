import math

import numpy as np
import pytest

from distilray.config.export import GateConfig
from distilray.export.gate import GateFigures, MaskAnswers, answer_masks, gate_faults, gate_figures
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
    figures = gate_figures(source, other)
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
    assert len(gate_faults(GateFigures(agreement, 10.0, change), GATE)) == faults


def test_a_fault_says_the_figure_and_the_bound():
    first, second = gate_faults(GateFigures(0.5, 10.0, 0.25), GATE)
    assert "50.00%" in first
    assert "at least 90.00%" in first
    assert "+25.00%" in second
    assert "at most 5.00%" in second
