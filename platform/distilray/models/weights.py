"""The weights of a model folder: read from safetensors alone, judged, and named as they are written."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from distilray.errors import InputError
from distilray.models.model_source import CONFIG_FILE, WEIGHTS_FILE
from distilray.runtime import storage

SAFETENSORS_METADATA = {"format": "pt"}  # transformers asks for it
_OF_ONE_MODEL = f"name a folder whose {CONFIG_FILE} and {WEIGHTS_FILE} are of one model"


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


def refuse_weights(model_dir: str, names: Sequence[str], fix: str = _OF_ONE_MODEL) -> None:
    """Refuses a folder that lacks weights, or has them in another shape; nothing happens when there are none.

    Raises:
        InputError: naming the first of them.
    """
    if names:
        raise InputError(f"{model_dir}: {len(names)} weights are missing or of another shape, first {names[0]}; {fix}")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the weights file of a model holds: its parameters, tied ones once; no model here has other state."""
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
