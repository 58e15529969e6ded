import importlib
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distilray.errors import InputError
from distilray.models.onnx_format import INPUTS, STANDARD_INPUTS, import_onnx_package, read_onnx_file
from tests.tiny.onnx import small_graph


def make_external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def with_external_weight(location):
    graph = small_graph(np.eye(6))
    make_external(graph.graph.initializer[0], location)
    return graph


def with_external_weight_in_a_branch():
    hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    make_external(hidden, "weights.bin")
    constant = helper.make_node("Constant", [], ["value"], value=hidden)
    output = helper.make_tensor_value_info("value", TensorProto.FLOAT, [1])
    branch = helper.make_graph([constant], "branch", [], [output])
    return with_node("If", ["all"], ["chosen"], then_branch=branch, else_branch=branch)


def with_node(*args, **attributes):
    graph = small_graph(np.eye(6))
    graph.graph.node.append(helper.make_node(*args, **attributes))
    return graph


@pytest.mark.parametrize(("kind", "is_int8"), [("FLOAT", False), ("INT8", True), ("UINT8", True)])
@pytest.mark.parametrize("inputs", [STANDARD_INPUTS, INPUTS, (*INPUTS, "token_type_ids")])
def test_a_graph_is_read_unchanged_with_the_type_of_its_weights(tmp_path, inputs, kind, is_int8):
    graph = small_graph(np.eye(6), inputs=inputs)
    onnx.checker.check_model(graph)
    graph.graph.initializer.append(helper.make_tensor("narrow", getattr(TensorProto, kind), [2, 2], [1, 2, 3, 4]))
    graph.graph.initializer.append(helper.make_tensor("scalar", TensorProto.INT8, [], [1]))
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    assert read_onnx_file(tmp_path / "model.onnx") == (graph.SerializeToString(), is_int8)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (with_external_weight("weights.bin"), "weight 'table' is stored in another file"),
        (with_external_weight("../../etc/passwd"), "weight 'table' is stored in another file"),
        (with_external_weight_in_a_branch(), "weight 'hidden' is stored in another file"),
        (with_node("Anything", ["flat"], ["x"], domain="org.example"), "custom operators of 'org.example'"),
        (small_graph(np.eye(6), inputs=["input_ids", "mask_index"]), "inputs input_ids, mask_index, outputs"),
        (small_graph(np.eye(6), inputs=[*INPUTS, "path"]), "inputs attention_mask, input_ids, mask_index, path"),
        (small_graph(np.eye(6), output="last_hidden_state"), "outputs last_hidden_state; expected"),
        (small_graph(np.eye(6)).SerializeToString()[:-40], r"not an ONNX file \(DecodeError\)"),
        (b"\xff\xff\xff\xff no graph", "not an ONNX file"),
    ],
    ids=["external", "path", "branch", "operator", "missing input", "input", "output", "truncated", "not ONNX"],
)
def test_a_graph_that_needs_more_than_the_runtime_or_has_another_signature_is_rejected(tmp_path, graph, message):
    file = tmp_path / "model.onnx"
    file.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    with pytest.raises(InputError, match=f"^{file}: .*{message}.*$"):
        read_onnx_file(file)


def test_a_missing_package_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=ModuleNotFoundError))
    with pytest.raises(
        InputError, match=r"'onnxruntime' is not installed; run: pip install onnx onnxscript onnxruntime$"
    ):
        import_onnx_package("onnxruntime.quantization")
