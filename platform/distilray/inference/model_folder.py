"""Model folders in the layout of transformers: completeness check, tokenizer and revision."""

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from distilray.errors import InputError
from distilray.models.onnx_format import ONNX_FILE
from distilray.models.sources import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, model_folder
from distilray.runtime import storage
from distilray.runtime.outputs import verify_file

TOKENIZER_FILES = (TOKENIZER_FILE, "vocab.txt")


def check_model_folder(model_dir: str) -> str:
    """Check that a model folder is complete without loading it, and return it; see `model_folder` for runs.

    Raises:
        InputError: the folder or a file is missing, or a file differs from the manifest of its run.
    """
    folder = Path(model_folder(str(storage.local_path(model_dir))))
    if not folder.is_dir():
        raise InputError(f"{model_dir}: no such folder; choose a model folder, or run the job that writes it")
    weights = ONNX_FILE if (folder / ONNX_FILE).is_file() else WEIGHTS_FILE
    for name in (CONFIG_FILE, weights):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: no {name}; choose a folder that `save_pretrained` wrote as safetensors, or a training run"
            )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{folder}: no {' or '.join(TOKENIZER_FILES)}; save the tokenizer into the same folder")
    for name in (CONFIG_FILE, weights, *TOKENIZER_FILES):
        verify_file(str(folder / name))
    return str(folder)


def load_tokenizer(model_dir: str) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        InputError: the tokenizer cannot be loaded, or has no mask token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            storage.local_path(model_dir), local_files_only=True, use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # `tokenizers` raises a plain Exception for a truncated file
        raise InputError(f"{model_dir}: the tokenizer cannot be loaded ({error}); save it there again") from None
    if tokenizer.mask_token_id is None:
        raise InputError(f"{model_dir}: the tokenizer has no mask token; use the one the model was trained with")
    return tokenizer


def revision_hash(model_dir: str) -> str:
    """Return the hexadecimal sha256 of all files that determine the model's predictions."""
    folder = storage.local_path(model_dir)
    digest = hashlib.sha256()
    for name in sorted((CONFIG_FILE, WEIGHTS_FILE, ONNX_FILE, *TOKENIZER_FILES)):
        if (folder / name).is_file():
            digest.update(f"{name} {storage.sha256(str(folder / name))}\n".encode())
    return digest.hexdigest()
