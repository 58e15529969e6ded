import gc
import weakref

import numpy as np
import pytest
import torch

from distilray.inference.backends import TorchMaskedLM
from distilray.inference.packed_model import PackedMaskedLM
from distilray.models.masked_lm import load_masked_lm
from tests.tiny.models import VOCABULARY, write_tiny_model


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model_dir(request, tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), request.param)


def a_batch(rng, *, rows, longest, masks):
    lengths = rng.integers(3, longest + 1, rows)
    width = int(lengths.max())
    attention_mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    input_ids = rng.integers(5, len(VOCABULARY), (rows, width)) * attention_mask
    places = [row * width + rng.choice(lengths[row], masks[row % len(masks)], replace=False) for row in range(rows)]
    return input_ids, attention_mask, np.concatenate(places), rng.integers(0, 2, (rows, width)) * attention_mask


@pytest.mark.parametrize(
    ("rows", "longest", "masks"), [(1, 9, [1]), (1, 9, [3]), (5, 12, [1]), (6, 12, [2, 0, 1]), (4, 3, [1])]
)
def test_logits_are_those_of_the_whole_forward_whatever_the_padding_and_the_masks(model_dir, rows, longest, masks):
    model = load_masked_lm(model_dir)
    packed, whole = PackedMaskedLM(model), TorchMaskedLM(model)
    rng = np.random.default_rng(rows)
    for _ in range(10):
        ids, attention, index, types = a_batch(rng, rows=rows, longest=longest, masks=masks)
        for token_types in (None, types):
            ours = packed.logits_at(ids, attention, index, token_types)
            np.testing.assert_allclose(ours, whole.logits_at(ids, attention, index, token_types), atol=1e-4)


def test_a_text_has_the_same_answer_alone_and_in_a_batch(model_dir):
    packed = PackedMaskedLM(load_masked_lm(model_dir))
    ids, attention, index, _ = a_batch(np.random.default_rng(1), rows=8, longest=15, masks=[1])
    together = packed.logits_at(ids, attention, index)
    for row, place in enumerate(index % ids.shape[1]):
        length = attention[row].sum()
        alone = packed.logits_at(ids[row : row + 1, :length], attention[row : row + 1, :length], np.array([place]))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-4)


def test_in_bfloat16_it_is_close_and_answers_in_float32(model_dir):
    model = load_masked_lm(model_dir)
    ids, attention, index, _ = a_batch(np.random.default_rng(2), rows=4, longest=9, masks=[1])
    exact = PackedMaskedLM(model).logits_at(ids, attention, index)
    packed = PackedMaskedLM(model.to(torch.bfloat16))
    found = packed.logits_at(ids, attention, index)
    assert (packed.dtype, found.dtype) == ("bfloat16", np.float32)
    assert np.abs(found - exact).max() > 0
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.99


def test_the_model_it_was_made_from_is_not_kept_in_memory(model_dir):
    model = load_masked_lm(model_dir)
    packed, kept = PackedMaskedLM(model), weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None
    assert packed.config.vocab_size == len(VOCABULARY)
