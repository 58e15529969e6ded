"""Encoder that computes only what fill-mask needs, on transformers' weights.

Three kinds of work of the usual forward are left out: padding (all but attention runs over the tokens of a batch in one
row), the last layer at positions without a mask, and the vocabulary head there. On CPUs the weights of the linear
layers are laid out once as the matrix kernels want them, where the usual forward does it in every call.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from distilray.models.architectures import architecture_of
from distilray.models.heads import decoder, head_transform
from distilray.models.precision import dtype_name

Linear = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    """One layer: its linear parts as functions, and its normalisations."""

    query: Linear
    key_value: Linear  # both in one product
    attention_out: Linear
    attention_norm: nn.Module
    up: Linear
    activation: nn.Module
    down: Linear
    out_norm: nn.Module


class PackedMaskedLM:
    """Logits at the masks, equal to those of the model that it was made from; threads may share it.

    Attributes:
        config: of transformers.
        dtype: of the weights, and of all computation but softmax, by its name in torch.
    """

    def __init__(self, model: Any) -> None:
        """Takes a model of transformers in eval mode, on the CPU or a GPU; it may be dropped afterwards."""
        self.config, self.dtype = model.config, dtype_name(model.dtype)
        self._dtype, self._device = model.dtype, model.device
        self._heads: int = model.config.num_attention_heads
        self._family = architecture_of(model.config)
        self._embeddings = self._family.embeddings_of(model)
        self._layers = list(_layers(model))
        self._transformed = head_transform(model)
        self._decoder = _linear(decoder(model))

    @torch.inference_mode()
    def logits_at(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        mask_index: NDArray[np.int64],
        token_type_ids: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Logits over the vocabulary, (masks, vocabulary), as `OnnxMaskedLM.logits_at`."""
        ids, index = (torch.from_numpy(each).to(self._device) for each in (input_ids, mask_index))
        types = None if token_type_ids is None else torch.from_numpy(token_type_ids).to(self._device)
        batch = _Packing(torch.from_numpy(attention_mask).to(self._device).bool(), self._dtype)
        hidden = self._embedded(ids, types, batch)  # (tokens, dim)
        for layer in self._layers[:-1]:
            hidden = self._through(layer, hidden, batch)
        hidden = self._last(self._layers[-1], hidden, index, batch)  # (masks, dim)
        found: NDArray[np.float32] = self._decoder(self._transformed(hidden)).float().cpu().numpy()
        return found

    def _embedded(self, ids: Tensor, types: Tensor | None, batch: "_Packing") -> Tensor:
        parts = self._embeddings
        found = parts.word_embeddings(ids[batch.real]) + parts.position_embeddings(batch.positions)
        if self._family.reads_token_types:
            token_types = torch.zeros_like(batch.positions) if types is None else types[batch.real]
            found = found + parts.token_type_embeddings(token_types)
        normed: Tensor = parts.LayerNorm(found)
        return normed

    def _through(self, layer: _Layer, hidden: Tensor, batch: "_Packing") -> Tensor:
        query = self._split(batch.padded(layer.query(hidden)))
        attended = F.scaled_dot_product_attention(query, *self._keys_and_values(layer, hidden, batch), batch.bias)
        return _feed_forward(layer, batch.packed(attended.transpose(1, 2).flatten(2)), hidden)

    def _last(self, layer: _Layer, hidden: Tensor, index: Tensor, batch: "_Packing") -> Tensor:
        """The last layer at the masks alone: (masks, dim). Each mask attends as a row of its own."""
        rows, at_masks = index // batch.real.shape[1], hidden[batch.place[index]]
        key, value = self._keys_and_values(layer, hidden, batch)
        bias = batch.bias
        if len(rows) != len(key) or not torch.equal(rows, torch.arange(len(key), device=rows.device)):
            key, value, bias = key[rows], value[rows], None if bias is None else bias[rows]
        query = self._split(layer.query(at_masks)[:, None])
        attended = F.scaled_dot_product_attention(query, key, value, bias)
        return _feed_forward(layer, attended.transpose(1, 2).flatten(1), at_masks)

    def _keys_and_values(self, layer: _Layer, hidden: Tensor, batch: "_Packing") -> tuple[Tensor, Tensor]:
        key, value = batch.padded(layer.key_value(hidden)).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def _split(self, tensor: Tensor) -> Tensor:
        """(batch, length, dim) -> (batch, heads, length, dim of a head)."""
        return tensor.unflatten(-1, (self._heads, -1)).transpose(1, 2)


class _Packing:
    """Where the tokens of a batch lie, (batch, length) with padding and (tokens,) without.

    Attributes:
        real: (batch, length) bool, which places hold a token.
        positions: (tokens,) place of each token in its text.
        place: (batch x length,) number of the token at each place; a padding has that of some token.
        bias: (batch, 1, 1, length), minus infinity at padding; None where there is none.
    """

    def __init__(self, real: Tensor, dtype: torch.dtype) -> None:
        self.real, self.bias = real, None
        self.positions = torch.arange(real.shape[1], device=real.device).expand(real.shape)[real]
        self.place = (real.flatten().cumsum(0) - 1).clamp(min=0)
        if len(self.positions) < real.numel():
            self.bias = torch.zeros(real.shape, dtype=dtype, device=real.device)
            self.bias = self.bias.masked_fill(~real, float("-inf"))[:, None, None, :]

    def padded(self, tensor: Tensor) -> Tensor:
        """(tokens, dim) -> (batch, length, dim)."""
        return (tensor if self.bias is None else tensor[self.place]).view(*self.real.shape, -1)

    def packed(self, tensor: Tensor) -> Tensor:
        """(batch, length, dim) -> (tokens, dim)."""
        return tensor.flatten(0, 1) if self.bias is None else tensor[self.real]


def _feed_forward(layer: _Layer, attended: Tensor, hidden: Tensor) -> Tensor:
    """What follows attention in a layer, both residuals included; (tokens, dim) each."""
    hidden = layer.attention_norm(layer.attention_out(attended) + hidden)
    found: Tensor = layer.out_norm(layer.down(layer.activation(layer.up(hidden))) + hidden)
    return found


def _layers(model: Any) -> Iterator[_Layer]:
    family = architecture_of(model.config)
    for layer in family.layers_of(model):
        own = family.modules_of(layer)
        yield _Layer(
            *(_linear(own.query), _linear(own.key, own.value), _linear(own.attention_output), own.attention_norm),
            *(_linear(own.intermediate), own.activation, _linear(own.output), own.output_norm),
        )


def _linear(*modules: nn.Linear) -> Linear:
    """The modules as one function, their results side by side."""
    weight = torch.cat([each.weight.detach() for each in modules])
    bias = torch.cat([each.bias.detach() for each in modules])
    if not _has_packed_weights(weight):
        return lambda hidden: F.linear(hidden, weight, bias)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda hidden: torch.ops.mkldnn._linear_pointwise(hidden, laid_out, bias, "none", [], "")


def _has_packed_weights(weight: Tensor) -> bool:
    """True where oneDNN multiplies with weights in a layout of its own: on CPUs, in bf16 only those with AVX-512."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
