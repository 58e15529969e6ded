import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.export.variants import write_bf16_folder, write_onnx_folder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import write_tiny_model


@pytest.fixture(params=["bert", "distilbert"])
def model_dir(request, tmp_path):
    return write_tiny_model(tmp_path / "model", request.param)


@pytest.fixture
def folders(model_dir, tmp_path):
    """Exported folders by dtype."""
    model, tokenizer_json = load_masked_lm(model_dir), read_tokenizer(model_dir)
    write_bf16_folder(tmp_path / "bf16", model, tokenizer_json)
    write_onnx_folder(tmp_path / "onnx", model, tokenizer_json, b"graph")
    return {"bfloat16": tmp_path / "bf16", "float32": tmp_path / "onnx"}


def test_transformers_loads_the_rounded_weights_of_a_bf16_folder(model_dir, folders):
    model, info = AutoModelForMaskedLM.from_pretrained(folders["bfloat16"], output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert model.dtype == torch.bfloat16
    expected = dict(load_masked_lm(model_dir).named_parameters())
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name


def test_a_bf16_folder_stores_two_bytes_per_weight(model_dir, folders):
    file = folders["bfloat16"] / "model.safetensors"
    with safe_open(file, "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    count = sum(parameter.numel() for parameter in load_masked_lm(model_dir).parameters())
    assert 0 < file.stat().st_size - 2 * count < 10_000  # names and shapes


def test_every_folder_has_its_tokenizer_and_the_name_of_its_dtype(model_dir, folders):
    text = "Paris is [MASK] of France"
    ids = AutoTokenizer.from_pretrained(model_dir)(text).input_ids
    for dtype, folder in folders.items():
        assert AutoTokenizer.from_pretrained(folder)(text).input_ids == ids
        assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    assert (folders["float32"] / "model.onnx").read_bytes() == b"graph"
