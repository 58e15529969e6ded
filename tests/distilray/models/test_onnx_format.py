import importlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distilray.errors import InputError
from distilray.models.onnx_format import INPUTS, import_onnx_package, read_onnx_file
from tests.tiny.onnx import small_graph


@pytest.fixture
def graph():
    return small_graph(np.eye(6))


def refusal(tmp_path, data):
    (tmp_path / "model.onnx").write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    with pytest.raises(InputError) as refused:
        read_onnx_file(tmp_path / "model.onnx")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def make_external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def test_a_plain_graph_is_read_unchanged(tmp_path, graph):
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    assert read_onnx_file(tmp_path / "model.onnx") == (graph.SerializeToString(), False)


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.UINT8])
def test_a_graph_with_a_matrix_of_8_bits_is_known(tmp_path, graph, kind):
    graph.graph.initializer.append(helper.make_tensor("narrow", kind, [2, 2], [1, 2, 3, 4]))
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    assert read_onnx_file(tmp_path / "model.onnx").is_int8


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd"])
def test_a_weight_in_another_file_is_refused(tmp_path, graph, location):
    make_external(graph.graph.initializer[0], location)
    assert "weight 'table' is stored in another file" in refusal(tmp_path, graph)


def test_a_weight_in_another_file_is_found_in_an_attribute_of_a_branch(tmp_path, graph):
    hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    make_external(hidden, "weights.bin")
    constant = helper.make_node("Constant", [], ["value"], value=hidden)
    branch = helper.make_graph(
        [constant], "branch", [], [helper.make_tensor_value_info("value", TensorProto.FLOAT, [1])]
    )
    graph.graph.node.append(helper.make_node("If", ["all"], ["chosen"], then_branch=branch, else_branch=branch))
    assert "weight 'hidden'" in refusal(tmp_path, graph)


def test_custom_operators_are_rejected(tmp_path, graph):
    graph.graph.node.append(helper.make_node("Anything", ["flat"], ["thing"], domain="org.example"))
    assert "operators of 'org.example'" in refusal(tmp_path, graph)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": ["input_ids", "mask_index"]}, "inputs input_ids, mask_index, outputs"),
        ({"inputs": [*INPUTS, "path"]}, "path"),
        ({"output": "last_hidden_state"}, "outputs last_hidden_state"),
    ],
)
def test_a_graph_with_another_signature_is_rejected(tmp_path, changes, said):
    assert said in refusal(tmp_path, small_graph(np.eye(6), **changes))


def test_a_truncated_file_is_rejected(tmp_path, graph):
    assert "not an ONNX file" in refusal(tmp_path, graph.SerializeToString()[:-40])
    assert "not an ONNX file" in refusal(tmp_path, b"\xff\xff\xff\xff no graph")


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        InputError, match=r"'onnxruntime' is not installed; run: pip install onnx onnxscript onnxruntime"
    ):
        import_onnx_package("onnxruntime.quantization")


def test_the_version_of_the_graph_is_one_that_the_checker_knows(graph):
    onnx.checker.check_model(graph)
