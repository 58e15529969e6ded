import gc
import weakref

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from distilray.export.variants import write_bf16_folder
from distilray.inference.backends import TorchMaskedLM, open_masked_lm
from distilray.inference.packed_model import PackedMaskedLM
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import VOCABULARY, write_tiny_model


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model_dir(request, tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def model(model_dir):
    return load_masked_lm(model_dir)


def random_batch(seed, *, rows, longest, masks):
    """Return ids, attention, mask index and token types; row i has masks[i % len(masks)] masks."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, rows)
    width = int(lengths.max())
    attention_mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    input_ids = rng.integers(5, len(VOCABULARY), (rows, width)) * attention_mask
    counts = [masks[row % len(masks)] for row in range(rows)]
    index = [row * width + rng.choice(lengths[row], counts[row], replace=False) for row in range(rows)]
    return input_ids, attention_mask, np.concatenate(index), rng.integers(0, 2, (rows, width)) * attention_mask


SHAPES = [(1, 9, [1]), (1, 9, [3]), (5, 12, [1]), (6, 12, [2, 0, 1]), (4, 3, [1])]


@pytest.mark.parametrize(("rows", "longest", "masks"), SHAPES)
def test_logits_are_those_of_transformers_for_any_padding_and_masks(model_dir, model, rows, longest, masks):
    peer = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    opened, packed = open_masked_lm(model_dir), PackedMaskedLM(model)
    for seed in range(3):
        ids, attention, index, types = random_batch(seed, rows=rows, longest=longest, masks=masks)
        for token_types in (None, types):
            inputs = {"input_ids": ids, "attention_mask": attention}
            if peer.config.model_type == "bert" and token_types is not None:
                inputs["token_type_ids"] = types
            with torch.no_grad():
                logits = peer(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits
            expected = logits.flatten(0, 1)[index].numpy()
            for backend in (opened, packed):
                actual = backend.logits_at(ids, attention, index, token_types)
                assert actual.dtype == np.float32
                np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_text_has_the_same_logits_alone_and_in_a_batch(model):
    packed = PackedMaskedLM(model)
    ids, attention, index, _ = random_batch(1, rows=8, longest=15, masks=[1])
    together = packed.logits_at(ids, attention, index)
    for row, position in enumerate(index % ids.shape[1]):
        alone = slice(row, row + 1), slice(attention[row].sum())
        logits = packed.logits_at(ids[alone], attention[alone], np.array([position]))
        np.testing.assert_allclose(logits[0], together[row], atol=1e-4)


def test_a_model_computes_in_the_dtype_of_its_folder_and_returns_float32(model_dir, model, tmp_path):
    write_bf16_folder(tmp_path / "bf16", model, read_tokenizer(model_dir))
    opened, narrow = open_masked_lm(model_dir), open_masked_lm(str(tmp_path / "bf16"))
    assert isinstance(narrow, TorchMaskedLM)
    assert (opened.model.dtype, narrow.model.dtype) == (torch.float32, torch.bfloat16)
    packed = PackedMaskedLM(narrow.model)
    assert (PackedMaskedLM(model).dtype, packed.dtype) == ("float32", "bfloat16")
    batch = random_batch(2, rows=4, longest=9, masks=[1])
    exact = opened.logits_at(*batch)
    for backend in (narrow, packed):
        logits = backend.logits_at(*batch)
        assert logits.dtype == np.float32
        assert np.abs(logits - exact).max() > 0
        assert np.corrcoef(logits.ravel(), exact.ravel())[0, 1] > 0.99


def test_a_packed_model_does_not_keep_its_source_in_memory(model_dir):
    model = load_masked_lm(model_dir)
    packed, reference = PackedMaskedLM(model), weakref.ref(model)
    del model
    if reference() is not None:
        gc.collect()
    assert reference() is None
    assert packed.config.vocab_size == len(VOCABULARY)
