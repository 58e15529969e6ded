"""Azure's metric: the perplexity of the filled texts under a causal language model.

It asks how usual the text reads that a model made, to another model. The true answers play no part: a fluent wrong
answer scores better than a rare right one. So it goes by a name that says what it is.
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
_WHAT = f"{CAUSAL_METRIC} is how probable a causal model finds the filled texts, not whether they are right"
_FIX = "name the local folder of such a model (causal.model_dir, in Azure's names model_id), or leave the metric out"


def check_causal_model(model_dir: str) -> str:
    """Return a model folder after a check of its files, without loading it.

    Raises:
        InputError: no such folder, or none with a config and weights as safetensors; it says what the metric is.
    """
    folder = storage.local_path(model_dir)
    if not folder.is_dir():
        raise InputError(f"{model_dir}: no such folder; {_WHAT}; {_FIX}")
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise InputError(f"{model_dir}: no config.json or no *.safetensors in it; {_WHAT}; {_FIX}")
    return str(folder)


class CausalPerplexity:
    """A causal language model with its tokenizer; runs no code of its folder."""

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
        self._longest: int = getattr(model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length

    @torch.inference_mode()
    def of(self, texts: Sequence[str]) -> list[float | None]:
        """The perplexity of each text: the exponential of the mean loss of its tokens, each given those before it.

        A text is cut at what the model reads. Without a start token its first token has no loss. None stands for a
        text without a token that has one.
        """
        encoded = [self._start + self._ids(text) for text in texts]
        found: list[float | None] = [None] * len(texts)
        told = [index for index, ids in enumerate(encoded) if len(ids) > 1]
        lengths = [len(encoded[index]) for index in told]
        for batch in length_sorted_batches(lengths, max_rows=self._batch_size, max_tokens=1 << 30):
            rows = [told[place] for place in batch]
            for index, value in zip(rows, self._perplexities([encoded[index] for index in rows]), strict=True):
                found[index] = value
        return found

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[: self._longest - len(self._start)]

    def _perplexities(self, rows: Sequence[Sequence[int]]) -> list[float]:
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        width = int(lengths.max())
        # Any token fills up: behind the text, where a causal model does not look.
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self._device)
        real = torch.arange(width, device=self._device) < lengths[:, None]
        logits: Tensor = self._model(input_ids=ids, attention_mask=real.long()).logits
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")
        means = (losses.double() * real[:, 1:]).sum(dim=1) / (lengths - 1)
        values: list[float] = means.clamp(max=700.0).exp().tolist()
        return values
