"""A masked language model as an ONNX graph: with logits at the masks only, or with those of all tokens."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distilray.models.architectures import architecture_of
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode
from distilray.models.onnx_format import (
    INPUTS,
    ONNX_FILE,
    OUTPUT,
    STANDARD_INPUTS,
    TOKEN_TYPES,
    import_onnx_package,
)

# Sizes of the example that the graph is traced with: none is 0 or 1, which the tracer would take for constants.
_BATCH, _LENGTH, _MASKS = 2, 8, 3
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class LogitsAtMasks(nn.Module):
    """The graph: (batch, length) ids to (masks, vocabulary) logits.

    `mask_index`, (masks,), holds places in the flattened (batch x length): only they go through the vocabulary head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, mask_index: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        hidden = encode(self.model, input_ids, attention_mask, token_type_ids).flatten(0, 1)
        return vocabulary_logits(self.model, hidden.index_select(0, mask_index))


class LogitsOfAllTokens(nn.Module):
    """The graph with the usual signature: (batch, length) ids to (batch, length, vocabulary) logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return vocabulary_logits(self.model, encode(self.model, input_ids, attention_mask, token_type_ids))


def onnx_graph(model: Any) -> bytes:
    """The ONNX file of a model, with batch, length and number of masks left open; no path of this machine is in it.

    Args:
        model: masked language model in eval mode, fp32, on the CPU.

    Raises:
        InputError: a package is missing.
    """
    return _exported(LogitsAtMasks(model), INPUTS)


def standard_onnx_graph(model: Any) -> bytes:
    """As `onnx_graph`, without mask positions: the logits of all tokens, for Optimum, Transformers.js and the like."""
    return _exported(LogitsOfAllTokens(model), STANDARD_INPUTS)


@torch.no_grad()
def _exported(module: Any, inputs: Sequence[str]) -> bytes:
    for name in ("onnx", "onnxscript"):
        import_onnx_package(name)
    config = module.model.config
    ids = torch.arange(_BATCH * _LENGTH).reshape(_BATCH, _LENGTH) % config.vocab_size
    example = dict(zip(inputs, (ids, torch.ones_like(ids), torch.arange(_MASKS)), strict=False))
    text_axes = {0: "batch", 1: "length"}
    axes: dict[str, dict[int, str]] = dict(zip(inputs, (text_axes, text_axes, {0: "masks"}), strict=False))
    if architecture_of(config).reads_token_types:
        example[TOKEN_TYPES], axes[TOKEN_TYPES] = torch.zeros_like(ids), text_axes
    with _quiet():
        program: Any = torch.onnx.export(
            module.eval(),
            (),
            kwargs=example,
            dynamo=True,
            dynamic_shapes=axes,
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    return _plain(program.model_proto)


def int8_graph(onnx_file: bytes, *, per_channel: bool, reduce_range: bool) -> bytes:
    """An ONNX file with its matrices and word embeddings as int8; activations are quantised as they come.

    Args:
        onnx_file: of `onnx_graph`.
        per_channel: a scale for each column of a matrix, instead of one for all.
        reduce_range: 7 bits, for CPUs without VNNI, whose 16-bit sums overflow with 8.

    Raises:
        InputError: a package is missing.
    """
    quantization = import_onnx_package("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as work, _quiet(""):
        source, target = Path(work) / ONNX_FILE, Path(work) / "int8.onnx"
        source.write_bytes(onnx_file)
        quantization.quantize_dynamic(
            source,
            target,
            weight_type=quantization.QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            op_types_to_quantize=["MatMul", "Gather"],
        )
        return _plain(import_onnx_package("onnx").load(target))


def _plain(model: Any) -> bytes:
    """The bytes of a graph without what tracing has noted in it: file names and lines of the code."""
    model.doc_string = ""
    graph = model.graph
    parts = [model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
    for part in parts:
        del part.metadata_props[:]
    for part in parts[1:]:
        part.doc_string = ""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet(*more: str) -> Iterator[None]:
    """Keeps back what the exporters tell about optional packages and their own future."""
    loggers = [logging.getLogger(name or None) for name in (*_NOISY_LOGGERS, *more)]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
