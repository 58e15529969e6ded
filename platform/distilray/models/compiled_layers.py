"""Compilation of the Transformer layers of a model with torch.compile."""

import functools
import inspect
from typing import Any

import torch

from distilray.models.architectures import architecture_of


def compile_layers(model: Any) -> None:
    """Compile every layer of a model for any batch size and width.

    Layers of the same class share their code, so that the time to compile does not depend on their number. Each layer
    has its own backward pass, so that DDP averages the gradients of a layer while the layers before it are computed.
    Gradient checkpointing stays outside the compiled code.
    """
    torch._dynamo.config.optimize_ddp = False  # it would split the code of each layer by DDP's buckets
    for layer in architecture_of(model.config).layers_of(model):
        layer_class: Any = type(layer)
        layer.__class__ = _compiled_class(layer_class)


@functools.cache
def _compiled_class(layer_class: Any) -> Any:
    """Return a subclass whose forward pass is compiled; transformers adds gradient checkpointing to subclasses too."""
    forward = torch.compile(inspect.unwrap(layer_class.forward), dynamic=True)
    return type(layer_class.__name__, (layer_class,), {"forward": forward})
