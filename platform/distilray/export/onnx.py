"""Export of a masked language model as an ONNX graph, with logits at the masks only or at all tokens."""

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

# Sizes of the example that the graph is traced with. The tracer would treat sizes of 0 or 1 as constants.
_BATCH, _LENGTH, _MASKS = 2, 8, 3
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class LogitsAtMasks(nn.Module):
    """Module from (batch, length) ids to (masks, vocabulary) logits.

    `mask_index`, (masks,), contains positions in the flattened (batch x length). Only these go through the vocabulary
    head.
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
    """Module with the standard signature, from (batch, length) ids to (batch, length, vocabulary) logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return vocabulary_logits(self.model, encode(self.model, input_ids, attention_mask, token_type_ids))


def onnx_graph(model: Any) -> bytes:
    """Return the ONNX file of a model, with dynamic batch, length and number of masks.

    The file does not contain any local path.

    Args:
        model: masked language model in eval mode, fp32, on the CPU.

    Raises:
        InputError: a package is missing.
    """
    return _export(LogitsAtMasks(model), INPUTS)


def standard_onnx_graph(model: Any) -> bytes:
    """Return an ONNX file with the logits of all tokens, as Optimum, Transformers.js and similar tools expect it."""
    return _export(LogitsOfAllTokens(model), STANDARD_INPUTS)


@torch.no_grad()
def _export(module: Any, inputs: Sequence[str]) -> bytes:
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
    return _serialize(program.model_proto)


def int8_graph(onnx_file: bytes, *, per_channel: bool, reduce_range: bool) -> bytes:
    """Return an ONNX file with matrices and word embeddings in int8. Activations are quantized dynamically.

    Args:
        onnx_file: result of `onnx_graph`.
        per_channel: use one scale per column of a matrix instead of a single scale.
        reduce_range: use 7 bits, for CPUs without VNNI, on which 16-bit sums of 8-bit products overflow.

    Raises:
        InputError: a package is missing.
    """
    quantization = import_onnx_package("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder, _quiet(root=True):
        source, target = Path(folder) / ONNX_FILE, Path(folder) / "int8.onnx"
        source.write_bytes(onnx_file)
        quantization.quantize_dynamic(
            source,
            target,
            weight_type=quantization.QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            op_types_to_quantize=["MatMul", "Gather"],
        )
        return _serialize(import_onnx_package("onnx").load(target))


def _serialize(model: Any) -> bytes:
    """Return the bytes of a graph without the metadata of tracing, which contains file names and source lines."""
    model.doc_string = ""
    graph = model.graph
    elements = [model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
    for element in elements:
        del element.metadata_props[:]
    for element in elements[1:]:
        element.doc_string = ""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet(*, root: bool = False) -> Iterator[None]:
    """Suppress warnings of the exporters about optional packages and deprecations.

    Args:
        root: also suppress those of the root logger, which onnxruntime uses.
    """
    loggers = [*map(logging.getLogger, _NOISY_LOGGERS), *([logging.getLogger()] if root else [])]
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
