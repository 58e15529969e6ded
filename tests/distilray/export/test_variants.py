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
    (tmp_path / "model").mkdir()
    return write_tiny_model(tmp_path / "model", request.param)


def test_plain_transformers_loads_the_bf16_folder_with_the_rounded_weights(model_dir, tmp_path):
    source = load_masked_lm(model_dir)
    write_bf16_folder(tmp_path / "bf16", source, read_tokenizer(model_dir))
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "bf16", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert loaded.dtype == torch.bfloat16
    expected = dict(source.named_parameters())
    for name, tensor in loaded.named_parameters():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    with safe_open(tmp_path / "bf16/model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_a_bf16_folder_has_about_half_the_bytes_of_the_weights(model_dir, tmp_path):
    source = load_masked_lm(model_dir)
    write_bf16_folder(tmp_path / "bf16", source, read_tokenizer(model_dir))
    numbers = sum(parameter.numel() for parameter in source.parameters())
    assert 0 < (tmp_path / "bf16/model.safetensors").stat().st_size - 2 * numbers < 10_000  # names and shapes


@pytest.mark.parametrize("kind", ["bf16", "onnx"])
def test_every_folder_brings_its_tokenizer_and_says_its_dtype(model_dir, tmp_path, kind):
    source, tokenizer_json = load_masked_lm(model_dir), read_tokenizer(model_dir)
    if kind == "bf16":
        write_bf16_folder(tmp_path / kind, source, tokenizer_json)
    else:
        write_onnx_folder(tmp_path / kind, source, tokenizer_json, b"graph")
        assert (tmp_path / kind / "model.onnx").read_bytes() == b"graph"
    text = "Paris is the [MASK] of France."
    own = AutoTokenizer.from_pretrained(tmp_path / kind)
    assert own(text).input_ids == AutoTokenizer.from_pretrained(model_dir)(text).input_ids
    config = json.loads((tmp_path / kind / "config.json").read_text())
    assert config["dtype"] == {"bf16": "bfloat16", "onnx": "float32"}[kind]
