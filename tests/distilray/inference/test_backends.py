import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from distilray.export.variants import write_bf16_folder
from distilray.inference.backends import TorchMaskedLM, open_masked_lm
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import write_tiny_model

IDS = np.array([[2, 7, 4, 9, 3], [2, 4, 3, 0, 0]])
ATTENTION = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
TYPES = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
MASKS = np.array([2, 6])


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def model_dir(request, tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), request.param)


def test_the_logits_at_the_masks_are_those_of_transformers(model_dir):
    plain = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    inputs = {"input_ids": torch.from_numpy(IDS), "attention_mask": torch.from_numpy(ATTENTION)}
    if plain.config.model_type == "bert":
        inputs["token_type_ids"] = torch.from_numpy(TYPES)
    with torch.no_grad():
        expected = plain(**inputs).logits.flatten(0, 1)[MASKS].numpy()
    found = open_masked_lm(model_dir).logits_at(IDS, ATTENTION, MASKS, TYPES)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4


def test_a_model_computes_in_the_dtype_it_is_saved_in(model_dir, tmp_path):
    write_bf16_folder(tmp_path / "bf16", load_masked_lm(model_dir), read_tokenizer(model_dir))
    fp32, bf16 = open_masked_lm(model_dir), open_masked_lm(str(tmp_path / "bf16"))
    assert isinstance(bf16, TorchMaskedLM)
    assert (fp32.model.dtype, bf16.model.dtype) == (torch.float32, torch.bfloat16)
    wide, narrow = (model.logits_at(IDS, ATTENTION, MASKS, TYPES) for model in (fp32, bf16))
    assert narrow.dtype == np.float32
    assert 0 < np.abs(wide - narrow).max() < 1
