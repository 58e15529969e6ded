"""One face for a model folder of any format: logits at the masks, from arrays to an array."""

import json
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.models.export.onnx_file import ONNX_FILE
from distilray.models.masked_lm import encode, load_masked_lm, vocabulary_logits
from distilray.models.model_source import CONFIG_FILE
from distilray.runtime import storage


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
    """A model of transformers on the CPU, in the dtype that it has."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    @torch.inference_mode()
    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Logits over the vocabulary, (masks, vocabulary), as `OnnxMaskedLM.logits_at`."""
        types = None if token_type_ids is None else torch.from_numpy(token_type_ids)
        hidden = encode(self.model, torch.from_numpy(input_ids), torch.from_numpy(attention_mask), types)
        logits: Tensor = vocabulary_logits(self.model, hidden.flatten(0, 1)[torch.from_numpy(mask_index)])
        found: NDArray[np.float32] = logits.float().numpy()
        return found


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
