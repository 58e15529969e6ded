"""The folders that an export consists of: each holds weights, configuration and tokenizer, and needs nothing else."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from distilray.models.masked_lm import SAFETENSORS_METADATA, companion_files, model_tensors
from distilray.models.onnx_file import ONNX_FILE
from distilray.models.sources import CONFIG_FILE, WEIGHTS_FILE


def write_onnx_folder(folder: Path, model: Any, tokenizer_json: str, graph: bytes) -> None:
    """Writes a folder that `OnnxMaskedLM` loads.

    Args:
        graph: of `onnx_graph` or `int8_graph`.
    """
    _write_companions(folder, model, tokenizer_json, "float32")
    (folder / ONNX_FILE).write_bytes(graph)


def write_bf16_folder(folder: Path, model: Any, tokenizer_json: str) -> None:
    """Writes a model folder that plain `transformers` loads, in half the bytes."""
    _write_companions(folder, model, tokenizer_json, "bfloat16")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in model_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata=SAFETENSORS_METADATA)


def _write_companions(folder: Path, model: Any, tokenizer_json: str, dtype: str) -> None:
    folder.mkdir(parents=True)
    for name, data in companion_files(model, tokenizer_json).items():
        (folder / name).write_bytes(data)
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, "dtype": dtype}, indent=1, sort_keys=True))
