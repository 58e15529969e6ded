"""An ONNX file that may be read: one file, ordinary operators, the inputs and the output that this project writes."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from distilray.errors import InputError

ONNX_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "mask_index")
STANDARD_INPUTS = INPUTS[:2]  # of a graph that gives the logits of all tokens, as Optimum exports it
TOKEN_TYPES = "token_type_ids"  # noqa: S105 - an input of BERT
OUTPUT = "logits"
# The operators of ONNX itself, and those that the runtime brings for quantised and fused graphs.
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INSTALL = f"pip install {' '.join(ONNX_PACKAGES)}"


def import_onnx_package(name: str) -> Any:
    """A module of the packages that ONNX needs.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"package '{name.partition('.')[0]}' is not installed; run: {_INSTALL}") from None


class OnnxFile(NamedTuple):
    """An ONNX file that may be run: its bytes, and whether weights of it are kept in 8 bits."""

    data: bytes
    is_int8: bool


def read_onnx_file(file: Path) -> OnnxFile:
    """An ONNX file, after a look at what it would have the runtime do.

    Raises:
        InputError: not ONNX, weights in other files, operators of a library, or other inputs than `INPUTS` or
            `STANDARD_INPUTS`, with token types or without.
    """
    onnx = import_onnx_package("onnx")
    data = file.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own
        raise InputError(f"{file}: not an ONNX file ({type(error).__name__}); run jobs.export_model again") from None
    outside = next((tensor.name for tensor in _tensors(model) if tensor.data_location == tensor.EXTERNAL), None)
    if outside is not None:
        raise InputError(f"{file}: weight '{outside}' lies in another file, which is not read; export it as one file")
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in _nodes(model)}
    foreign = sorted(domains - _DOMAINS - {function.domain for function in model.functions})
    if foreign:
        raise InputError(f"{file}: operators of '{foreign[0]}', which need code of their own; export the model anew")
    _check_face(file, model)
    weights = [tensor for tensor in model.graph.initializer if tensor.dims]
    return OnnxFile(data, any(tensor.data_type in (tensor.INT8, tensor.UINT8) for tensor in weights))


def _check_face(file: Path, model: Any) -> None:
    names = {value.name for value in model.graph.input}
    outputs = [value.name for value in model.graph.output]
    if names - {TOKEN_TYPES} not in (set(INPUTS), set(STANDARD_INPUTS)) or outputs != [OUTPUT]:
        raise InputError(
            f"{file}: inputs {', '.join(sorted(names))}, outputs {', '.join(outputs)}, where "
            f"{', '.join(STANDARD_INPUTS)}, with {INPUTS[2]} or without, and {OUTPUT} are needed; make it with "
            "jobs.export_model"
        )


def _graphs(model: Any) -> Iterator[Any]:
    """The main graph, those of functions, and all that lie in attributes (branches, bodies of loops)."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


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
