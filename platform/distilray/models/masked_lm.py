"""Masked language models in local folders: loading, saving, encoding, size."""

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
from distilray.models.precision import dtype_name
from distilray.models.sources import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from distilray.runtime import storage

SAFETENSORS_METADATA = {"format": "pt"}  # required by transformers
_FIX = f"choose a folder whose {CONFIG_FILE} and {WEIGHTS_FILE} belong to the same model"


def load_masked_lm(model_dir: str, *, fresh_head: bool = False) -> Any:
    """Load a model with its masked-LM head, in eval mode and fp32.

    Args:
        model_dir: local folder in the layout of transformers, with weights as safetensors.
        fresh_head: accept an encoder without a head, and initialize a new head.

    Raises:
        InputError: a file is missing, the architecture is not supported, or the weights do not match the config.
    """
    config = read_model_config(model_dir)
    family = architecture_of(config)
    model, missing, mismatched = load_weights(family.model_class(family.masked_lm), model_dir, config)
    if fresh_head:
        missing = [name for name in missing if not is_head_parameter(name)]
    elif missing and all(map(is_head_parameter, missing)) and not mismatched:
        fix = "this encoder has no masked-LM head; train one with jobs.train_teacher"
        require_all_weights(model_dir, missing, fix)
    require_all_weights(model_dir, [*missing, *mismatched])
    return model


def read_model_config(model_dir: str, weights_file: str = WEIGHTS_FILE) -> Any:
    """Read the configuration of a model in a local folder, which must also contain its weights.

    Raises:
        InputError: a file is missing, or the architecture is not supported.
    """
    folder = storage.local_path(model_dir)
    for name in (CONFIG_FILE, weights_file):
        if not (folder / name).is_file():
            raise InputError(f"{model_dir}: no {name}; choose a model folder with {CONFIG_FILE} and {weights_file}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        fix = "copy the file again, or run the job that writes it"
        raise InputError(f"{model_dir}/{CONFIG_FILE}: not a model config ({error}); {fix}") from None
    name = family_name(config.to_dict())
    if name not in ARCHITECTURES:
        raise InputError(f"{model_dir}: model type {name} is not supported; use {' or '.join(ARCHITECTURES)}")
    return config


def encode(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None,
    *,
    has_padding: bool | None = None,
) -> Tensor:
    """Return the last hidden states, (batch, length, dim); families without token types ignore `token_type_ids`.

    Args:
        has_padding: whether the mask has zeros. If None, transformers looks it up in every forward pass, and the host
            waits for the GPU.
    """
    mask: Tensor | None = attention_mask
    if has_padding is not None:
        mask = _attention_bias(model, attention_mask.bool()) if has_padding else None
    segments = {"token_type_ids": token_type_ids} if architecture_of(model.config).reads_token_types else {}
    return model.base_model(input_ids, attention_mask=mask, **segments).last_hidden_state


def _attention_bias(model: Any, is_real: Tensor) -> Tensor:
    """Return the four-dimensional mask that transformers would create from `is_real`, (batch, length)."""
    keys = is_real[:, None, None, :]
    if model.config._attn_implementation != "eager":
        return keys.expand(-1, -1, keys.shape[-1], -1)
    bias = torch.zeros_like(keys, dtype=model.dtype)
    return bias.masked_fill_(~keys, torch.finfo(model.dtype).min)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, counting tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_layer_parameters(model: Any) -> int:
    """Return the number of parameters of the Transformer layers."""
    return count_parameters(architecture_of(model.config).layers_of(model))


def load_weights(model_class: Any, model_dir: str, config: Any) -> tuple[Any, list[str], list[str]]:
    """Load a model in fp32 and eval mode. Return it with the names of missing weights and of weights of another shape.

    Both kinds are initialized from torch's random state; the caller decides whether that is acceptable.

    Args:
        model_class: class of transformers with `from_pretrained`.
        model_dir: local folder with weights as safetensors.
        config: configuration from `read_model_config`.

    Raises:
        InputError: the weights file is damaged or not safetensors.
    """
    # The caller reports missing weights in one line.
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
    except Exception as error:  # safetensors raises plain Exception for a truncated file
        fix = "copy the file again, or run the job that writes it"
        raise InputError(f"{model_dir}/{WEIGHTS_FILE}: cannot be loaded ({error}); {fix}") from None
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    return model.eval(), sorted(info["missing_keys"]), sorted(mismatched)


def require_all_weights(model_dir: str, names: Sequence[str], fix: str = _FIX) -> None:
    """Check that no weights of a folder are missing or have another shape.

    Args:
        names: names of the missing or mismatched weights.
        fix: how the user can fix it.

    Raises:
        InputError: `names` is not empty; the message contains the first name.
    """
    if names:
        raise InputError(f"{model_dir}: {len(names)} weights are missing or of another shape, first {names[0]}; {fix}")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the weights file: all parameters, tied ones only once. The models have no other state."""
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def save_model(model: Any, folder: Path, tokenizer_json: str) -> None:
    """Write a model folder in the layout of transformers: config, safetensors, tokenizer."""
    for name, data in companion_files(model, tokenizer_json).items():
        (folder / name).write_bytes(data)
    save_file(model_tensors(model), folder / WEIGHTS_FILE, metadata=SAFETENSORS_METADATA)


def companion_files(model: Any, tokenizer_json: str, dtype: torch.dtype = torch.float32) -> dict[str, bytes]:
    """Return the content of all files of a model folder except the weights, by name.

    Args:
        dtype: dtype of the weights.
    """
    family = architecture_of(model.config)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_position_embeddings}
    inputs = ["input_ids", *(["token_type_ids"] if family.reads_token_types else []), "attention_mask"]
    config = {**model.config.to_dict(), "architectures": [type(model).__name__], "dtype": dtype_name(dtype)}
    config.pop("_name_or_path", None)  # a local path
    return {
        CONFIG_FILE: json.dumps(config, indent=1, sort_keys=True).encode(),
        TOKENIZER_FILE: tokenizer_json.encode(),
        TOKENIZER_CONFIG_FILE: json.dumps(
            {**settings, **family.special_tokens, "model_input_names": inputs}, indent=1
        ).encode(),
    }
