"""Perplexity of the filled texts under a causal language model, Azure's fill-mask metric.

The metric measures fluency and ignores the true answers: a fluent wrong answer scores better than a rare correct one,
hence the name `causal_perplexity_of_predictions`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from distilray.errors import InputError
from distilray.inference.encoding import length_sorted_batches
from distilray.runtime import storage

CAUSAL_METRIC = "causal_perplexity_of_predictions"
_MEANING = f"{CAUSAL_METRIC} is the perplexity of the filled texts under a causal model, not their correctness"
_FIX = "set causal.model_dir (Azure's model_id) to the local folder of such a model, or omit the metric"


def check_causal_model(model_dir: str) -> str:
    """Check the files of a model folder without loading the model, and return its path.

    Raises:
        InputError: the folder is missing, or has no config or no safetensors weights.
    """
    folder = storage.local_path(model_dir)
    if not folder.is_dir():
        raise InputError(f"{model_dir}: no such folder; {_MEANING}; {_FIX}")
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise InputError(f"{model_dir}: no config.json or no *.safetensors in it; {_MEANING}; {_FIX}")
    return str(folder)


class CausalPerplexity:
    """Causal language model and tokenizer; code in the model folder is not executed."""

    def __init__(self, model_dir: str, *, batch_size: int, add_start_token: bool, device: torch.device) -> None:
        check_causal_model(model_dir)
        folder = storage.local_path(model_dir)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, use_fast=True, trust_remote_code=False
            )
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        except Exception as error:  # tokenizers and safetensors raise their own plain Exceptions
            raise InputError(f"{model_dir}: cannot be loaded as a causal model ({error}); {_FIX}") from None
        self._model, self._device, self._batch_size = model.eval().to(device), device, batch_size
        self._start: list[int] = []
        if add_start_token:
            if self._tokenizer.bos_token_id is None:
                raise InputError(f"{model_dir}: its tokenizer has no BOS token; set causal.add_start_token=false")
            self._start = [self._tokenizer.bos_token_id]
        self._max_length: int = (
            getattr(model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        )

    @torch.inference_mode()
    def perplexities(self, texts: Sequence[str]) -> list[float | None]:
        """Return the perplexity of each text: the exponential of the mean loss over its tokens.

        Texts are truncated to the model's maximum length. The first token has no loss unless a start token is added.
        A text without any loss has the perplexity None.
        """
        encoded = [self._start + self._ids(text) for text in texts]
        perplexities: list[float | None] = [None] * len(texts)
        scored = [index for index, ids in enumerate(encoded) if len(ids) > 1]
        lengths = [len(encoded[index]) for index in scored]
        for batch in length_sorted_batches(lengths, max_rows=self._batch_size, max_tokens=1 << 30):
            rows = [scored[number] for number in batch]
            for index, value in zip(rows, self._batch_perplexities([encoded[index] for index in rows]), strict=True):
                perplexities[index] = value
        return perplexities

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[: self._max_length - len(self._start)]

    def _batch_perplexities(self, rows: Sequence[Sequence[int]]) -> list[float]:
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        width = int(lengths.max())
        # The padding token does not matter: it comes after the text, so a causal model never attends to it.
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self._device)
        is_text = torch.arange(width, device=self._device) < lengths[:, None]
        logits: Tensor = self._model(input_ids=ids, attention_mask=is_text.long()).logits
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")
        means = (losses.double() * is_text[:, 1:]).sum(dim=1) / (lengths - 1)
        values: list[float] = means.clamp(max=700.0).exp().tolist()  # exp overflows above 709
        return values
