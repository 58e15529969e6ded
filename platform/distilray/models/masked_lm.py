"""Masked language models of a local folder: loading, the encoder and its size."""

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig

from distilray.errors import InputError
from distilray.models.architectures import ARCHITECTURES, architecture_of, family_name
from distilray.models.model_source import CONFIG_FILE, WEIGHTS_FILE
from distilray.models.vocabulary_head import is_head_parameter
from distilray.models.weights import load_weights, refuse_weights
from distilray.runtime import storage


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
        refuse_weights(model_dir, missing, "a bare encoder has no vocabulary head: train one with jobs.train_teacher")
    refuse_weights(model_dir, [*missing, *mismatched])
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
