"""Backends of masked language models: onnxruntime, packed torch and plain torch, with one interface."""

import json
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilray.errors import InputError
from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.inference.packed_model import PackedMaskedLM
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.onnx_format import ONNX_FILE
from distilray.models.precision import autocast, dtype_name, serving_dtype
from distilray.models.sources import CONFIG_FILE, MODEL_FILES, TOKENIZER_FILE, is_onnx, localize
from distilray.runtime import storage

ONNX_FILES = (CONFIG_FILE, TOKENIZER_FILE, ONNX_FILE)


class MaskedLMBackend(Protocol):
    """Masked language model of any format.

    Attributes:
        config: transformers config.
        dtype: dtype of the weights, by its name in torch.
    """

    config: Any
    dtype: str

    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Return logits at the masks, (masks, vocabulary).

        Args:
            input_ids, attention_mask: (batch, length).
            mask_index: (masks,) positions of the masks in the flattened (batch x length).
            token_type_ids: (batch, length); None means zeros. Models without token types ignore them.
        """
        ...


class TorchMaskedLM:
    """Model run by transformers itself.

    The head runs in the dtype of the weights, because rounding logits to bf16 produces ties.

    Args:
        model: used on its current device.
        autocast_dtype: dtype of the encoder if it differs from that of the weights.
    """

    def __init__(self, model: Any, autocast_dtype: torch.dtype = torch.float32) -> None:
        self.model, self.config, self.dtype = model, model.config, dtype_name(model.dtype)
        self._autocast_dtype = autocast_dtype

    @torch.inference_mode()
    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        device, dtype = self.model.device, self._autocast_dtype
        ids, mask, index = (torch.from_numpy(each).to(device) for each in (input_ids, attention_mask, mask_index))
        types = None if token_type_ids is None else torch.from_numpy(token_type_ids).to(device)
        with autocast(device, dtype):
            hidden = encode(self.model, ids, mask, types).flatten(0, 1)
        logits: Tensor = vocabulary_logits(self.model, hidden[index].to(self.model.dtype))
        array: NDArray[np.float32] = logits.float().cpu().numpy()
        return array


def local_masked_lm(source: str) -> str:
    """Return a local folder with a model of any format, downloading it if necessary; see `localize`."""
    return localize(source, ONNX_FILES if is_onnx(source) else MODEL_FILES)


def open_masked_lm(folder: str, *, threads: int | None = None) -> MaskedLMBackend:
    """Open a model with onnxruntime if it has `model.onnx`, otherwise with transformers in its saved dtype.

    Args:
        folder: local model folder, or one that `jobs.export_model` wrote.
        threads: threads of an ONNX model; torch uses those of the process.

    Raises:
        InputError: a file is missing or invalid.
    """
    if is_onnx(folder):
        return OnnxMaskedLM.load(folder, threads=threads)
    model = load_masked_lm(folder)
    config = json.loads((storage.local_path(folder) / CONFIG_FILE).read_bytes())
    saved_dtype = config.get("dtype") or config.get("torch_dtype")
    return TorchMaskedLM(model.to(torch.bfloat16) if saved_dtype == dtype_name(torch.bfloat16) else model)


def open_for_serving(folder: str, *, precision: str = "auto", threads: int | None = None) -> MaskedLMBackend:
    """Open a model with onnxruntime if it has `model.onnx`, otherwise as a `PackedMaskedLM`.

    Args:
        folder: local model folder, or one that `jobs.export_model` wrote.
        precision: of the weights, `fp32` or `bf16`; `auto` means fp32. An ONNX model only accepts `auto`.
        threads: threads of an ONNX model; torch uses those of the calling thread.

    Raises:
        InputError: a file is missing or invalid, or the model cannot have this precision.
    """
    if not is_onnx(folder):
        return PackedMaskedLM(load_masked_lm(folder).to(serving_dtype(precision)))
    if precision != "auto":
        raise InputError(
            f"precision '{precision}': {folder} is an ONNX model, whose precision is fixed; use precision auto"
        )
    return OnnxMaskedLM.load(folder, threads=threads)
