import numpy as np
import pytest

from distilray.export.parity import compare_logits, parity_cases


class Model:
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
    assert {result.max_difference for result in compare_logits(Model(), Model(), cases, graph="onnx")} == {0.0}
    for case, result in zip(
        cases, compare_logits(Model(), Model(np.array([0, 0.5, -0.75])), cases, graph="onnx"), strict=True
    ):
        assert (result.batch, result.length) == case.input_ids.shape
        assert result.masks == len(case.mask_index)
        assert result.max_difference == (0.75 if result.masks else 0.0)


@pytest.mark.parametrize("plus", [np.nan, np.inf])
def test_what_is_no_number_is_as_far_away_as_can_be(cases, plus):
    results = compare_logits(Model(), Model(plus), cases, graph="onnx")
    assert all(result.max_difference > 1e30 for result in results if result.masks)
