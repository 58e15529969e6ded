"""Masked language model that computes only what fill-mask needs, using the weights of a transformers model.

It skips three parts of the usual forward pass: padding (all but attention runs on the unpadded tokens of a batch), the
last layer at unmasked positions, and the masked-LM head at these positions. On CPUs the weights of linear layers are
converted to the layout of the matrix kernels once instead of in every call.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from distilray.models.architectures import architecture_of
from distilray.models.heads import decoder
from distilray.models.precision import dtype_name

Linear = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    """Transformer layer, with its linear modules as functions."""

    query: Linear
    key_value: Linear  # both in one matrix product
    attention_out: Linear
    attention_norm: nn.Module
    up: Linear
    activation: nn.Module
    down: Linear
    out_norm: nn.Module


class PackedMaskedLM:
    """Backend with the same logits at the masks as the model that it is built from. Thread-safe.

    Args:
        model: transformers model in eval mode, on the CPU or a GPU. It is not needed afterwards.

    Attributes:
        config: transformers config.
        dtype: dtype of the weights and of all computation except softmax, by its name in torch.
    """

    def __init__(self, model: Any) -> None:
        self.config, self.dtype = model.config, dtype_name(model.dtype)
        self._dtype, self._device = model.dtype, model.device
        self._heads: int = model.config.num_attention_heads
        self._family = architecture_of(model.config)
        self._embeddings = self._family.embeddings_of(model)
        self._layers = list(_layers(model))
        self._transform = nn.Sequential(*self._family.head_of(model)[:-1])
        self._decoder = _linear(decoder(model))

    @torch.inference_mode()
    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        ids, index = (torch.from_numpy(each).to(self._device) for each in (input_ids, mask_index))
        types = None if token_type_ids is None else torch.from_numpy(token_type_ids).to(self._device)
        packing = _Packing(torch.from_numpy(attention_mask).to(self._device).bool(), self._dtype)
        hidden = self._embed(ids, types, packing)  # (tokens, dim)
        for layer in self._layers[:-1]:
            hidden = self._run_layer(layer, hidden, packing)
        hidden = self._run_last_layer(self._layers[-1], hidden, index, packing)  # (masks, dim)
        logits: NDArray[np.float32] = self._decoder(self._transform(hidden)).float().cpu().numpy()
        return logits

    def _embed(self, ids: Tensor, types: Tensor | None, packing: "_Packing") -> Tensor:
        modules = self._embeddings
        summed = modules.word_embeddings(ids[packing.real]) + modules.position_embeddings(packing.positions)
        if self._family.reads_token_types:
            token_types = torch.zeros_like(packing.positions) if types is None else types[packing.real]
            summed = summed + modules.token_type_embeddings(token_types)
        normalized: Tensor = modules.LayerNorm(summed)
        return normalized

    def _run_layer(self, layer: _Layer, hidden: Tensor, packing: "_Packing") -> Tensor:
        query = self._split_heads(packing.pad(layer.query(hidden)))
        attended = F.scaled_dot_product_attention(query, *self._keys_and_values(layer, hidden, packing), packing.bias)
        return _feed_forward(layer, packing.pack(attended.transpose(1, 2).flatten(2)), hidden)

    def _run_last_layer(self, layer: _Layer, hidden: Tensor, index: Tensor, packing: "_Packing") -> Tensor:
        """Run the last layer at the masks only, (masks, dim). Each mask attends as a separate row."""
        rows, at_masks = index // packing.real.shape[1], hidden[packing.token_at[index]]
        key, value = self._keys_and_values(layer, hidden, packing)
        bias = packing.bias
        if len(rows) != len(key) or not torch.equal(rows, torch.arange(len(key), device=rows.device)):
            key, value, bias = key[rows], value[rows], None if bias is None else bias[rows]
        query = self._split_heads(layer.query(at_masks)[:, None])
        attended = F.scaled_dot_product_attention(query, key, value, bias)
        return _feed_forward(layer, attended.transpose(1, 2).flatten(1), at_masks)

    def _keys_and_values(self, layer: _Layer, hidden: Tensor, packing: "_Packing") -> tuple[Tensor, Tensor]:
        key, value = packing.pad(layer.key_value(hidden)).chunk(2, dim=-1)
        return self._split_heads(key), self._split_heads(value)

    def _split_heads(self, tensor: Tensor) -> Tensor:
        """(batch, length, dim) -> (batch, heads, length, head dim)."""
        return tensor.unflatten(-1, (self._heads, -1)).transpose(1, 2)


class _Packing:
    """Conversion between the padded (batch, length) and the packed (tokens,) form of a batch.

    Attributes:
        real: (batch, length) bool, True at tokens, False at padding.
        positions: (tokens,) position of each token in its text.
        token_at: (batch x length,) index of the packed token at each padded position; arbitrary at padding.
        bias: (batch, 1, 1, length) attention bias, minus infinity at padding; None without padding.
    """

    def __init__(self, real: Tensor, dtype: torch.dtype) -> None:
        self.real, self.bias = real, None
        self.positions = torch.arange(real.shape[1], device=real.device).expand(real.shape)[real]
        self.token_at = (real.flatten().cumsum(0) - 1).clamp(min=0)
        if len(self.positions) < real.numel():
            self.bias = torch.zeros(real.shape, dtype=dtype, device=real.device)
            self.bias = self.bias.masked_fill(~real, float("-inf"))[:, None, None, :]

    def pad(self, tensor: Tensor) -> Tensor:
        """(tokens, dim) -> (batch, length, dim)."""
        return (tensor if self.bias is None else tensor[self.token_at]).view(*self.real.shape, -1)

    def pack(self, tensor: Tensor) -> Tensor:
        """(batch, length, dim) -> (tokens, dim)."""
        return tensor.flatten(0, 1) if self.bias is None else tensor[self.real]


def _feed_forward(layer: _Layer, attended: Tensor, hidden: Tensor) -> Tensor:
    """Run the part of a layer after attention, including both residual connections; (tokens, dim) each."""
    hidden = layer.attention_norm(layer.attention_out(attended) + hidden)
    output: Tensor = layer.out_norm(layer.down(layer.activation(layer.up(hidden))) + hidden)
    return output


def _layers(model: Any) -> Iterator[_Layer]:
    family = architecture_of(model.config)
    for layer in family.layers_of(model):
        modules = family.modules_of(layer)
        yield _Layer(
            query=_linear(modules.query),
            key_value=_linear(modules.key, modules.value),
            attention_out=_linear(modules.attention_output),
            attention_norm=modules.attention_norm,
            up=_linear(modules.intermediate),
            activation=modules.activation,
            down=_linear(modules.output),
            out_norm=modules.output_norm,
        )


def _linear(*modules: nn.Linear) -> Linear:
    """Return several linear modules as one function, with their outputs concatenated."""
    weight = torch.cat([each.weight.detach() for each in modules])
    bias = torch.cat([each.bias.detach() for each in modules])
    if not _supports_packed_weights(weight):
        return lambda hidden: F.linear(hidden, weight, bias)
    packed_weight = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda hidden: torch.ops.mkldnn._linear_pointwise(hidden, packed_weight, bias, "none", [], "")


def _supports_packed_weights(weight: Tensor) -> bool:
    """Return True if oneDNN has its own weight layout here: on CPUs, and for bf16 only with AVX-512."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
