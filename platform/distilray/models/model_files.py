"""The files of a model folder that plain `transformers` loads."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from distilray.models.architectures import architecture_of
from distilray.models.model_source import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from distilray.models.weights import SAFETENSORS_METADATA, model_tensors


def save_model(model: Any, folder: Path, tokenizer_json: str) -> None:
    """Writes a model folder that plain `transformers` loads: config, safetensors, tokenizer."""
    for name, data in companion_files(model, tokenizer_json).items():
        (folder / name).write_bytes(data)
    save_file(model_tensors(model), folder / WEIGHTS_FILE, metadata=SAFETENSORS_METADATA)


def companion_files(model: Any, tokenizer_json: str) -> dict[str, bytes]:
    """The files of a model folder beside its weights, by name."""
    family = architecture_of(model.config)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_position_embeddings}
    inputs = ["input_ids", *(["token_type_ids"] if family.reads_token_types else []), "attention_mask"]
    config = {**model.config.to_dict(), "architectures": [type(model).__name__], "dtype": "float32"}
    return {
        CONFIG_FILE: json.dumps(config, indent=1, sort_keys=True).encode(),
        TOKENIZER_FILE: tokenizer_json.encode(),
        TOKENIZER_CONFIG_FILE: json.dumps(
            {**settings, **family.special_tokens, "model_input_names": inputs}, indent=1
        ).encode(),
    }
