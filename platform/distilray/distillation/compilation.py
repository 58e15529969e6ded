"""Compilation of the training step with torch.compile: which parts a run compiles, and the Transformer layers."""

import functools
import inspect
import os
import shutil
import socket
from typing import Any

import torch

from distilray.config.distillation import TrainingConfig
from distilray.errors import InputError
from distilray.models.architectures import architecture_of


def is_compiled(config: TrainingConfig) -> bool:
    """Return whether the layers of both models and the transforms of their heads are compiled."""
    return config.compile is True  # `auto` is off until compiled layers have been run on a GPU


def is_loss_compiled(config: TrainingConfig, device: str) -> bool:
    """Return whether the vocabulary loss is compiled: by default on GPUs, where it then moves a fifteenth of the bytes.

    Args:
        device: `cuda` or `cpu`.
    """
    return config.compile is True or (config.compile == "auto" and device == "cuda")


def check_compiler() -> None:
    """Check that this machine can compile.

    Raises:
        InputError: there is no C++ compiler.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise InputError(f"compile: {socket.gethostname()} has no C++ compiler; install g++, or set compile to false")


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
