"""Models of a local folder: reading and writing their files, the encoder and its size."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from distilray.errors import InputError
from distilray.models.architectures import ARCHITECTURES, architecture_of, family_name
from distilray.models.heads import is_head_parameter
from distilray.models.sources import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from distilray.runtime import storage

SAFETENSORS_METADATA = {"format": "pt"}  # transformers asks for it
_OF_ONE_MODEL = f"name a folder whose {CONFIG_FILE} and {WEIGHTS_FILE} are of one model"


def load_masked_lm(model_dir: str, *, fresh_head: bool = False) -> Any:
    """Load a model with its masked-LM head, in eval mode and fp32.

    Args:
        model_dir: local folder in the layout of transformers, weights as safetensors.
        fresh_head: accepts a bare encoder and initialises the head anew.

    Raises:
        InputError: a file is missing, another architecture, or weights that do not fit the config.
    """
    config = read_model_config(model_dir)
    family = architecture_of(config)
    model, missing, mismatched = load_weights(family.model_class(family.masked_lm), model_dir, config)
    if fresh_head:
        missing = [name for name in missing if not is_head_parameter(name)]
    elif missing and all(map(is_head_parameter, missing)) and not mismatched:
        require_all_weights(
            model_dir, missing, "a bare encoder has no vocabulary head: train one with jobs.train_teacher"
        )
    require_all_weights(model_dir, [*missing, *mismatched])
    return model


def read_model_config(model_dir: str, weights_file: str = WEIGHTS_FILE) -> Any:
    """Read the configuration of a supported model in a local folder that also has its weights.

    Raises:
        InputError: a file is missing, or it is another architecture.
    """
    folder = storage.local_path(model_dir)
    for name in (CONFIG_FILE, weights_file):
        if not (folder / name).is_file():
            raise InputError(f"{model_dir}: no {name}; name a model folder with {CONFIG_FILE} and {weights_file}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        fix = "copy the file again, or run the job that writes it"
        raise InputError(f"{model_dir}/{CONFIG_FILE}: not a model config ({error}); {fix}") from None
    name = family_name(config.to_dict())
    if name not in ARCHITECTURES:
        raise InputError(f"{model_dir}: a {name}, where {' or '.join(ARCHITECTURES)} is needed")
    return config


def encode(model: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
    """Return the last hidden states, (batch, length, dim); families without token types ignore them."""
    segments = {"token_type_ids": token_type_ids} if architecture_of(model.config).reads_token_types else {}
    return model.base_model(input_ids, attention_mask=attention_mask, **segments).last_hidden_state


def count_parameters(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_layer_parameters(model: Any) -> int:
    """Parameters of the Transformer layers alone, which a student has half of."""
    return count_parameters(architecture_of(model.config).layers_of(model))


def load_weights(model_class: Any, model_dir: str, config: Any) -> tuple[Any, list[str], list[str]]:
    """A model of transformers in fp32 and eval mode, the weights that its folder lacks, and those of another shape.

    Both kinds are drawn anew from torch's random state; the caller judges whether that may be.

    Args:
        model_class: of transformers, with `from_pretrained`.
        model_dir: local folder, weights as safetensors.
        config: of the model, from `read_model_config`.

    Raises:
        InputError: the file is torn, or no safetensors.
    """
    # What is missing is judged by the caller; the library's own report and bars would say it again, in many lines.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            storage.local_path(model_dir),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    except Exception as error:  # safetensors raises its own plain Exception for a torn file
        fix = "copy the file again, or run the job that writes it"
        raise InputError(f"{model_dir}/{WEIGHTS_FILE}: cannot be loaded ({error}); {fix}") from None
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    return model.eval(), sorted(info["missing_keys"]), sorted(mismatched)


def require_all_weights(model_dir: str, names: Sequence[str], fix: str = _OF_ONE_MODEL) -> None:
    """Refuses a folder that lacks weights, or has them in another shape; nothing happens when there are none.

    Raises:
        InputError: naming the first of them.
    """
    if names:
        raise InputError(f"{model_dir}: {len(names)} weights are missing or of another shape, first {names[0]}; {fix}")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's weights file: its parameters, tied ones once; no model here has other state."""
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def save_model(model: Any, folder: Path, tokenizer_json: str) -> None:
    """Writes a model folder that plain `transformers` loads: config, safetensors, tokenizer."""
    for name, data in companion_files(model, tokenizer_json).items():
        (folder / name).write_bytes(data)
    save_file(model_tensors(model), folder / WEIGHTS_FILE, metadata=SAFETENSORS_METADATA)


def companion_files(model: Any, tokenizer_json: str) -> dict[str, bytes]:
    """Return the files of a model folder beside its weights, by name; nothing names the folder it was loaded from."""
    family = architecture_of(model.config)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_position_embeddings}
    inputs = ["input_ids", *(["token_type_ids"] if family.reads_token_types else []), "attention_mask"]
    config = {**model.config.to_dict(), "architectures": [type(model).__name__], "dtype": "float32"}
    config.pop("_name_or_path", None)
    return {
        CONFIG_FILE: json.dumps(config, indent=1, sort_keys=True).encode(),
        TOKENIZER_FILE: tokenizer_json.encode(),
        TOKENIZER_CONFIG_FILE: json.dumps(
            {**settings, **family.special_tokens, "model_input_names": inputs}, indent=1
        ).encode(),
    }
