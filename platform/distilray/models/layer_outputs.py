"""Hidden states, queries, keys and values of the layers of an encoder."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distilray.models.architectures import architecture_of

EMBEDDINGS = -1


class LayerOutputs:
    """Records the outputs of some layers in the last forward pass.

    Args:
        model: masked language model.
        layers: layer numbers from 0; -1 denotes the embeddings, which have only hidden states.
    """

    def __init__(self, model: Any, layers: Iterable[int]) -> None:
        self._heads = model.config.num_attention_heads
        self._outputs: dict[tuple[str, int], Tensor] = {}
        self._projections: list[_RecordedLinear] = []
        self._is_open = False
        # Record only within the encoder's forward pass: gradient checkpointing calls layers again in the backward pass.
        model.base_model.register_forward_pre_hook(lambda *_: self._open(True))
        model.base_model.register_forward_hook(lambda *_: self._open(False))
        family = architecture_of(model.config)
        for number in sorted(set(layers)):
            if number == EMBEDDINGS:
                self._record(family.embeddings_of(model), number, {})
                continue
            layer = family.layers_of(model)[number]
            modules = family.modules_of(layer)
            self._record(layer, number, {"queries": modules.query, "keys": modules.key, "values": modules.value})

    def hidden(self, layer: int) -> Tensor:
        """Return the hidden states of a layer, (batch, length, dim)."""
        return self._outputs["hidden", layer]

    def projection(self, name: str, layer: int) -> Tensor:
        """Return the `queries`, `keys` or `values` of a layer, (batch, heads, length, head dim)."""
        output = self._outputs[name, layer]
        return output.view(*output.shape[:2], self._heads, -1).transpose(1, 2)

    def clear(self) -> None:
        """Drop the outputs, which keep the autograd graph of the last pass in memory."""
        self._outputs.clear()
        for module in self._projections:
            module.last_output = None

    def _record(self, module: nn.Module, number: int, projections: Mapping[str, Any]) -> None:
        """Record the output of a layer or of the embeddings, and those of the projections within a layer."""

        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._is_open:
                self._outputs["hidden", number] = output[0] if isinstance(output, tuple) else output
                self._outputs.update({(name, number): each.last_output for name, each in projections.items()})

        module.register_forward_hook(record)
        for each in projections.values():
            each.__class__ = _RecordedLinear
            self._projections.append(each)

    def _open(self, is_open: bool) -> None:
        self._is_open = is_open
        for module in self._projections:
            module.is_recording = is_open


class _RecordedLinear(nn.Linear):
    """Projection that keeps its last output.

    This is a class, not a hook, because compiled layers with modules of the same classes share their code, whatever
    hooks the modules have.
    """

    is_recording = False
    last_output: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        output = super().forward(hidden)
        if torch.compiler.is_compiling() or self.is_recording:
            self.last_output = output
        return output


def default_layer_map(teacher_layers: int, student_layers: int) -> list[tuple[int, int]]:
    """Return (student layer, teacher layer) pairs; a student layer learns from the last teacher layer that it replaces.

    This is TinyBERT's uniform map (equation 6): 12 -> 6 gives 0-1, 1-3, 2-5, 3-7, 4-9, 5-11.
    """
    return [(layer, (layer + 1) * teacher_layers // student_layers - 1) for layer in range(student_layers)]
