"""Tokenizers and weights of the evaluated models, loaded separately so that only one model is in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distilray.inference.backends import MaskedLMBackend, TorchMaskedLM, local_masked_lm
from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.models.masked_lm import load_masked_lm, read_model_config
from distilray.models.onnx_format import ONNX_FILE
from distilray.models.precision import compute_dtype
from distilray.models.sources import WEIGHTS_FILE, is_onnx
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of


@dataclass(frozen=True)
class ModelTokenizer:
    """Tokenizer of a model.

    Attributes:
        name: name of the model in the recipe.
        encode: encodes a text, which may contain [MASK], with [CLS] and [SEP].
        id_to_token: returns the token of an id.
        token_to_id: returns the id of a token; None if it is not in the vocabulary.
        max_length: maximum number of tokens in the model's input.
    """

    name: str
    encode: Callable[[str], list[int]]
    id_to_token: Callable[[int], str]
    token_to_id: Callable[[str], int | None]
    mask_id: int
    pad_id: int
    max_length: int


def read_model_tokenizer(name: str, source: str) -> ModelTokenizer:
    """Read the tokenizer and the maximum length of a model.

    Raises:
        InputError: a file is missing or damaged.
    """
    folder = local_masked_lm(source)
    tokenizer_json = read_tokenizer(folder)
    tokenizer, vocabulary = build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json)
    config = read_model_config(folder, ONNX_FILE if is_onnx(source) else WEIGHTS_FILE)
    return ModelTokenizer(
        name,
        encode=lambda text: tokenizer.encode(text).ids,
        id_to_token=lambda token_id: tokenizer.id_to_token(token_id) or "",
        token_to_id=tokenizer.token_to_id,
        mask_id=vocabulary.mask,
        pad_id=vocabulary.pad,
        max_length=config.max_position_embeddings,
    )


def load_model(source: str, precision: str) -> MaskedLMBackend:
    """Load an ONNX model on the CPU, and any other model on a GPU if one is visible."""
    folder = local_masked_lm(source)
    if is_onnx(source):
        return OnnxMaskedLM.load(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TorchMaskedLM(load_masked_lm(folder).to(device), compute_dtype(precision, device))
