"""Backends of masked language models: logits at the masks by onnxruntime, packed or plain torch."""

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
    """A masked language model of any format.

    Attributes:
        config: of transformers.
        dtype: of the weights, by its name in torch.
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
        """Logits over the vocabulary, (masks, vocabulary), as `OnnxMaskedLM.logits_at`."""
        ...


class TorchMaskedLM:
    """A model as transformers runs it; its head in the dtype of its weights: logits rounded to bf16 would tie.

    Args:
        model: stays on its device.
        autocast_dtype: of the encoder, where that is not the dtype of the weights.
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
        """Logits over the vocabulary, (masks, vocabulary), as `OnnxMaskedLM.logits_at`."""
        device, dtype = self.model.device, self._autocast_dtype
        ids, mask, index = (torch.from_numpy(each).to(device) for each in (input_ids, attention_mask, mask_index))
        types = None if token_type_ids is None else torch.from_numpy(token_type_ids).to(device)
        with autocast(device, dtype):
            hidden = encode(self.model, ids, mask, types).flatten(0, 1)
        logits: Tensor = vocabulary_logits(self.model, hidden[index].to(self.model.dtype))
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found


def local_masked_lm(source: str) -> str:
    """The folder of a model of any format on this machine, as `localise`."""
    return localize(source, ONNX_FILES if is_onnx(source) else MODEL_FILES)


def open_masked_lm(folder: str, *, threads: int | None = None) -> MaskedLMBackend:
    """Open the model of a local folder: by onnxruntime if it has `model.onnx`, else as transformers in its saved dtype.

    Args:
        folder: of a model, or one that `jobs.export_model` wrote.
        threads: of an ONNX model; torch's are those of the process.

    Raises:
        InputError: a file is missing or not what it should be.
    """
    if is_onnx(folder):
        return OnnxMaskedLM.load(folder, threads=threads)
    model = load_masked_lm(folder)
    named = json.loads((storage.local_path(folder) / CONFIG_FILE).read_bytes())
    saved = named.get("dtype") or named.get("torch_dtype")
    return TorchMaskedLM(model.to(torch.bfloat16) if saved == dtype_name(torch.bfloat16) else model)


def open_for_serving(folder: str, *, dtype: str = "auto", threads: int | None = None) -> MaskedLMBackend:
    """Open the model of a local folder: by onnxruntime if it has `model.onnx`, else packed.

    Args:
        folder: of a model, or one that `jobs.export_model` wrote.
        dtype: of the weights, `float32` or `bfloat16`; `auto` is float32. An ONNX model has its own and takes `auto`.
        threads: of an ONNX model; torch's are those of the thread that calls.

    Raises:
        InputError: a file is missing or not what it should be, or the dtype cannot be chosen.
    """
    if not is_onnx(folder):
        return PackedMaskedLM(load_masked_lm(folder).to(serving_dtype(dtype)))
    if dtype != "auto":
        raise InputError(f"dtype '{dtype}': {folder} is an ONNX model, whose dtype is fixed; use dtype auto")
    return OnnxMaskedLM.load(folder, threads=threads)
