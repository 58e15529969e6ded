"""Small ONNX graphs with the signature of an exported model, built without tracing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distilray.models.masked_lm import companion_files, load_masked_lm
from distilray.models.onnx_format import INPUTS, ONNX_FILE, OUTPUT, STANDARD_INPUTS, TOKEN_TYPES
from distilray.pretraining_data.tokenizer import read_tokenizer


def small_graph(table: np.ndarray, *, inputs: Sequence[str] = (*INPUTS, TOKEN_TYPES), output: str = OUTPUT):
    """Return a model whose logits at a mask are row `id` of `table`, plus the token type.

    Without `mask_index` among the inputs: at every token.
    """
    if "mask_index" not in inputs:
        return _standard_graph(table)
    nodes = [
        helper.make_node("Reshape", ["input_ids", "all"], ["flat"]),
        helper.make_node("Gather", ["flat", "mask_index"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], [output if TOKEN_TYPES not in inputs else "rows"]),
    ]
    if TOKEN_TYPES in inputs:
        nodes += [
            helper.make_node("Reshape", [TOKEN_TYPES, "all"], ["flat_types"]),
            helper.make_node("Gather", ["flat_types", "mask_index"], ["types"]),
            helper.make_node("Cast", ["types"], ["float_types"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["float_types", "last"], ["column"]),
            helper.make_node("Add", ["rows", "column"], [output]),
        ]
    constants = {"table": table.astype(np.float32), "all": np.array([-1]), "last": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64, ["masks"] if name == "mask_index" else ["batch", "length"]
            )
            for name in inputs
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["masks", table.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _standard_graph(table: np.ndarray):
    text = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in STANDARD_INPUTS]
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", "length", table.shape[1]])
    weights = [numpy_helper.from_array(table.astype(np.float32), "table")]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [OUTPUT])]
    graph = helper.make_graph(nodes, "small", text, [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_small_onnx(folder: Path, model_dir: str, graph: onnx.ModelProto | None = None) -> str:
    """Write a folder like `jobs.export_model`, with the configuration and the tokenizer of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = load_masked_lm(model_dir)
    size = model.config.vocab_size
    for name, data in companion_files(model, read_tokenizer(model_dir)).items():
        (folder / name).write_bytes(data)
    (folder / ONNX_FILE).write_bytes((graph or small_graph(np.eye(size))).SerializeToString())
    return str(folder)
