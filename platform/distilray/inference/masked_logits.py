"""One face for a model folder of any format: logits at the masks, from arrays to an array."""

import json
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.model_source import CONFIG_FILE, MODEL_FILES, TOKENIZER_FILE, is_onnx, local_model
from distilray.models.onnx_file import ONNX_FILE
from distilray.runtime import storage

ONNX_FILES = (CONFIG_FILE, TOKENIZER_FILE, ONNX_FILE)


class MaskedLogits(Protocol):
    """A masked language model of any format."""

    config: Any

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
    """A model of transformers; its head in the dtype of its weights: logits rounded to bf16 would tie.

    Args:
        model: stays on its device.
        autocast_dtype: of the encoder, where that is not the dtype of the weights.
    """

    def __init__(self, model: Any, autocast_dtype: torch.dtype = torch.float32) -> None:
        self.model, self.config, self._autocast_dtype = model, model.config, autocast_dtype

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
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            hidden = encode(self.model, ids, mask, types).flatten(0, 1)
        logits: Tensor = vocabulary_logits(self.model, hidden[index].to(self.model.dtype))
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found


def local_masked_lm(source: str) -> str:
    """The folder of a model of any format on this machine, as `local_model`."""
    return local_model(source, ONNX_FILES if is_onnx(source) else MODEL_FILES)


def open_masked_lm(folder: str, *, threads: int | None = None) -> MaskedLogits:
    """The model of a local folder: by onnxruntime where it holds `model.onnx`, else by torch in its saved dtype.

    Args:
        folder: of a model, or one that `jobs.export_model` wrote.
        threads: of an ONNX model; torch's are those of the process.

    Raises:
        InputError: a file is missing or not what it should be.
    """
    place = storage.local_path(folder)
    if (place / ONNX_FILE).is_file():
        return OnnxMaskedLM.load(folder, threads=threads)
    model = load_masked_lm(folder)
    named = json.loads((place / CONFIG_FILE).read_bytes())
    saved = named.get("dtype") or named.get("torch_dtype")
    return TorchMaskedLM(model.to(torch.bfloat16) if saved == "bfloat16" else model)
