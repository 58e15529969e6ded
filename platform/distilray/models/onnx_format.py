"""ONNX format of exported models, and checks of ONNX files before they are run."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from distilray.errors import InputError

ONNX_FILE = "model.onnx"
STANDARD_INPUTS = ("input_ids", "attention_mask")  # of a graph with the logits of all tokens, as exported by Optimum
MASK_INDEX = "mask_index"
INPUTS = (*STANDARD_INPUTS, MASK_INDEX)  # of a graph with the logits at the masks only
TOKEN_TYPES = "token_type_ids"  # noqa: S105 - an input of BERT
OUTPUT = "logits"
# Operators of ONNX, and those of the runtime for quantized and fused graphs.
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INSTALL = f"pip install {' '.join(ONNX_PACKAGES)}"


def import_onnx_package(name: str) -> Any:
    """Import a module of the optional ONNX packages.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"package '{name.partition('.')[0]}' is not installed; run: {_INSTALL}") from None


class OnnxFile(NamedTuple):
    """Content of a checked ONNX file; `is_int8` is True if it has 8-bit weights."""

    data: bytes
    is_int8: bool


def read_onnx_file(file: Path) -> OnnxFile:
    """Read an ONNX file, and check that the runtime needs no other file or library to run it.

    Raises:
        InputError: the file is not ONNX, has weights in other files or custom operators, or its inputs are not `INPUTS`
            or `STANDARD_INPUTS`, with or without token types.
    """
    onnx = import_onnx_package("onnx")
    data = file.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf has its own class
        raise InputError(f"{file}: not an ONNX file ({type(error).__name__}); run jobs.export_model again") from None
    external = next((tensor.name for tensor in _tensors(model) if tensor.data_location == tensor.EXTERNAL), None)
    if external is not None:
        raise InputError(f"{file}: weight '{external}' is stored in another file; export the model as one file")
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in _nodes(model)}
    foreign = sorted(domains - _DOMAINS - {function.domain for function in model.functions})
    if foreign:
        raise InputError(f"{file}: custom operators of '{foreign[0]}'; export the model with standard operators")
    _check_signature(file, model)
    weights = [tensor for tensor in model.graph.initializer if tensor.dims]
    return OnnxFile(data, any(tensor.data_type in (tensor.INT8, tensor.UINT8) for tensor in weights))


def _check_signature(file: Path, model: Any) -> None:
    names = {value.name for value in model.graph.input}
    outputs = [value.name for value in model.graph.output]
    if names - {TOKEN_TYPES} not in (set(INPUTS), set(STANDARD_INPUTS)) or outputs != [OUTPUT]:
        raise InputError(
            f"{file}: inputs {', '.join(sorted(names))}, outputs {', '.join(outputs)}; expected inputs "
            f"{', '.join(STANDARD_INPUTS)}, optionally {MASK_INDEX}, and output {OUTPUT}; export it with "
            "jobs.export_model"
        )


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the main graph, those of functions, and those in attributes (branches, loop bodies)."""
    pending = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors
