"""The models that are evaluated: their tokenizers first, their weights one after the other."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.errors import InputError
from distilray.inference.masked_logits import MaskedLogits
from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.models.export.onnx_file import ONNX_FILE
from distilray.models.masked_lm import compute_dtype, encode, load_masked_lm, vocabulary_logits
from distilray.models.model_source import CONFIG_FILE, MODEL_FILES, TOKENIZER_FILE, local_model, model_inputs, pinned
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.sample import HUB_PREFIX, SAMPLE_PREFIX

ONNX_FILES = (CONFIG_FILE, TOKENIZER_FILE, ONNX_FILE)


@dataclass(frozen=True)
class Subject:
    """A model under evaluation, as the makers of masked texts see it.

    Attributes:
        name: as in the recipe.
        encode: a text as token ids with [CLS] and [SEP]; the text may hold [MASK].
        token_of: the token of an id.
        id_of: the id of a token, None when it is not in the vocabulary.
        max_length: tokens that the model reads.
    """

    name: str
    encode: Callable[[str], list[int]]
    token_of: Callable[[int], str]
    id_of: Callable[[str], int | None]
    mask_id: int
    pad_id: int
    max_length: int


def read_subject(name: str, source: str) -> Subject:
    """Tokenizer and maximum length of a model.

    Raises:
        InputError: a file is missing or broken.
    """
    folder = _local_folder(source)
    tokenizer_json = read_tokenizer(folder)
    tokenizer, vocabulary = build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json)
    config = storage.join(folder, CONFIG_FILE)
    try:
        max_length = int(json.loads(storage.read_bytes(config))["max_position_embeddings"])
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{config}: no model config with max_position_embeddings; write the folder anew") from None
    return Subject(
        name,
        encode=lambda text: tokenizer.encode(text).ids,
        token_of=lambda number: tokenizer.id_to_token(number) or "",
        id_of=tokenizer.token_to_id,
        mask_id=vocabulary.mask,
        pad_id=vocabulary.pad,
        max_length=max_length,
    )


def placed(source: str) -> str:
    """A source that means the same everywhere: a hub's model by its commit, a folder of this machine by its path."""
    return pinned(source) if not _is_folder(source) else str(storage.local_path(source))


def model_files(name: str, source: str) -> dict[str, str]:
    """What a run names as its inputs for a model, as `model_inputs` does."""
    if _is_onnx(source):
        return {name: storage.join(source, ONNX_FILE), f"{name}_config": storage.join(source, CONFIG_FILE)}
    return model_inputs(name, source)


def load_model(source: str, precision: str) -> MaskedLogits:
    """The model of a folder: an ONNX model on the CPU as it is, another on a GPU if this process sees one."""
    folder = _local_folder(source)
    return OnnxMaskedLM.load(folder) if _is_onnx(source) else TorchModel(load_masked_lm(folder), precision)


class TorchModel:
    """A BERT or DistilBERT; its encoder in the given precision, its head in fp32: logits rounded to bf16 would tie."""

    def __init__(self, model: Any, precision: str) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = compute_dtype(precision, self._device)
        self._model, self.config = model.to(self._device), model.config

    @torch.inference_mode()
    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """As `MaskedLogits.logits_at`."""
        ids, mask, index = (torch.from_numpy(each).to(self._device) for each in (input_ids, attention_mask, mask_index))
        types = None if token_type_ids is None else torch.from_numpy(token_type_ids).to(self._device)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            hidden = encode(self._model, ids, mask, types).flatten(0, 1)
        logits: NDArray[np.float32] = vocabulary_logits(self._model, hidden[index].float()).cpu().numpy()
        return logits


def _is_folder(source: str) -> bool:
    return not source.startswith((HUB_PREFIX, SAMPLE_PREFIX)) and storage.is_local(source)


def _is_onnx(source: str) -> bool:
    return not source.startswith((HUB_PREFIX, SAMPLE_PREFIX)) and storage.exists(storage.join(source, ONNX_FILE))


def _local_folder(source: str) -> str:
    return local_model(source, ONNX_FILES if _is_onnx(source) else MODEL_FILES)
