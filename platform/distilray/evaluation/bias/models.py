"""The models that are evaluated: their tokenizers first, their weights one after the other."""

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
    id_to_token: Callable[[int], str]
    token_to_id: Callable[[str], int | None]
    mask_id: int
    pad_id: int
    max_length: int


def read_model_tokenizer(name: str, source: str) -> ModelTokenizer:
    """Tokenizer and maximum length of a model.

    Raises:
        InputError: a file is missing or broken.
    """
    folder = local_masked_lm(source)
    tokenizer_json = read_tokenizer(folder)
    tokenizer, vocabulary = build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json)
    config = read_model_config(folder, ONNX_FILE if is_onnx(source) else WEIGHTS_FILE)
    return ModelTokenizer(
        name,
        encode=lambda text: tokenizer.encode(text).ids,
        id_to_token=lambda number: tokenizer.id_to_token(number) or "",
        token_to_id=tokenizer.token_to_id,
        mask_id=vocabulary.mask,
        pad_id=vocabulary.pad,
        max_length=config.max_position_embeddings,
    )


def load_model(source: str, precision: str) -> MaskedLMBackend:
    """The model of a folder: an ONNX model on the CPU as it is, another on a GPU if this process sees one."""
    folder = local_masked_lm(source)
    if is_onnx(source):
        return OnnxMaskedLM.load(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TorchMaskedLM(load_masked_lm(folder).to(device), compute_dtype(precision, device))
