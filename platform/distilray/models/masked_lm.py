"""Masked language models of a local folder: loading, the encoder, and the vocabulary head on chosen positions only."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, BertForMaskedLM, DistilBertForMaskedLM

from distilray.errors import InputError
from distilray.models.model_source import CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from distilray.models.weights import SAFETENSORS_METADATA, load_weights, model_tensors, refuse_weights
from distilray.runtime import storage

MODEL_CLASSES: Mapping[str, type[nn.Module]] = {"bert": BertForMaskedLM, "distilbert": DistilBertForMaskedLM}
# What a token that never occurs counts as, so that its log frequency is finite.
_UNSEEN_COUNT = 0.1
# Parameters that a bare encoder does not hold; those of the head start fresh.
_HEAD_PREFIXES = ("cls.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.")


def load_masked_lm(model_dir: str, *, fresh_head: bool = False) -> Any:
    """A BERT or DistilBERT with its vocabulary head, in eval mode and fp32.

    Args:
        model_dir: local folder in the layout of transformers, weights as safetensors.
        fresh_head: accepts a bare encoder and initialises the head anew.

    Raises:
        InputError: a file is missing, another architecture, or weights that do not fit the config.
    """
    config = read_model_config(model_dir)
    model, missing, mismatched = load_weights(MODEL_CLASSES[config.model_type], model_dir, config)
    if fresh_head:
        missing = [name for name in missing if not is_head_parameter(name)]
    elif missing and all(map(is_head_parameter, missing)) and not mismatched:
        refuse_weights(model_dir, missing, "a bare encoder has no vocabulary head: train one with jobs.train_teacher")
    refuse_weights(model_dir, [*missing, *mismatched])
    return model


def read_model_config(model_dir: str, weights_file: str = WEIGHTS_FILE) -> Any:
    """The config of a BERT or DistilBERT in a local folder that also has its weights.

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
    if config.model_type not in MODEL_CLASSES:
        raise InputError(f"{model_dir}: a {config.model_type}, where {' or '.join(MODEL_CLASSES)} is needed")
    return config


def encode(model: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
    """The last hidden states, (batch, length, dim); a DistilBERT has no token types and ignores them."""
    if model.config.model_type == "bert":
        found = model.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
    else:
        found = model.distilbert(input_ids, attention_mask=attention_mask)
    return found.last_hidden_state


def vocabulary_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits over the vocabulary, (..., vocabulary), of hidden states (..., dim)."""
    return decoder(model)(transformed(model, hidden))


def transformed(model: Any, hidden: Tensor) -> Tensor:
    """What the vocabulary head does to hidden states (..., dim) before its last matrix."""
    found: Tensor = head_transform(model)(hidden)
    return found


def head_transform(model: Any) -> nn.Module:
    """The vocabulary head without its last matrix."""
    if model.config.model_type == "bert":
        found: nn.Module = model.cls.predictions.transform
        return found
    return nn.Sequential(model.vocab_transform, model.activation, model.vocab_layer_norm)


def decoder(model: Any) -> nn.Linear:
    """The last matrix of the vocabulary head; its weight is that of the word embeddings."""
    found: nn.Linear = model.cls.predictions.decoder if model.config.model_type == "bert" else model.vocab_projector
    return found


def count_parameters(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_layer_parameters(model: nn.Module) -> int:
    """Parameters of the Transformer layers alone, which a student has half of."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if ".layer." in name)


@torch.no_grad()
def start_head_bias(model: Any, label_counts: NDArray[np.int64]) -> bool:
    """Gives a fresh vocabulary head the log frequencies of the tokens as its bias: it need not learn those any more.

    Args:
        model: BertForMaskedLM.
        label_counts: (vocabulary,) how often each token is to be predicted.

    Returns:
        False, and nothing is changed, when the head has been trained before.
    """
    bias = model.cls.predictions.bias
    if bias.any():
        return False
    counts = torch.from_numpy(label_counts).to(bias.dtype) + _UNSEEN_COUNT
    bias.copy_((counts / counts.sum()).log())
    return True


def is_head_parameter(name: str) -> bool:
    """Whether a parameter belongs to the vocabulary head (the tied decoder matrix counts as an embedding)."""
    return name.startswith(_HEAD_PREFIXES)


def save_model(model: Any, folder: Path, tokenizer_json: str) -> None:
    """Writes a model folder that plain `transformers` loads: config, safetensors, tokenizer."""
    for name, data in companion_files(model, tokenizer_json).items():
        (folder / name).write_bytes(data)
    save_file(model_tensors(model), folder / WEIGHTS_FILE, metadata=SAFETENSORS_METADATA)


def companion_files(model: Any, tokenizer_json: str) -> dict[str, bytes]:
    """The files of a model folder beside its weights, by name."""
    is_bert = model.config.model_type == "bert"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_position_embeddings}
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    inputs = ["input_ids", *(["token_type_ids"] if is_bert else []), "attention_mask"]
    config = {**model.config.to_dict(), "architectures": [type(model).__name__], "dtype": "float32"}
    return {
        CONFIG_FILE: json.dumps(config, indent=1, sort_keys=True).encode(),
        TOKENIZER_FILE: tokenizer_json.encode(),
        TOKENIZER_CONFIG_FILE: json.dumps(settings | names | {"model_input_names": inputs}, indent=1).encode(),
    }


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it faster than in fp32, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that a recipe's `precision` means: auto, bf16, fp16 or fp32."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return preferred_dtype(device) if precision == "auto" else named[precision]


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself (AMX or AVX-512 BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
