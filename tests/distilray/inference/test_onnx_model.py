import importlib
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from distilray.errors import InputError
from distilray.inference.backends import OnnxMaskedLM, open_masked_lm
from distilray.models.onnx_format import INPUTS, STANDARD_INPUTS
from tests.tiny.models import VOCABULARY, write_tiny_model
from tests.tiny.onnx import small_graph, write_small_onnx

IDS = np.array([[2, 7, 3], [2, 9, 3]])
ONES = np.ones_like(IDS)
TABLE = np.eye(len(VOCABULARY))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture
def folder(tmp_path, model_dir):
    write_small_onnx(tmp_path / "onnx", model_dir)
    return tmp_path / "onnx"


@pytest.mark.parametrize("inputs", [STANDARD_INPUTS, INPUTS, (*INPUTS, "token_type_ids")], ids=len)
def test_the_logits_have_a_row_for_each_mask_in_the_order_of_the_index(tmp_path, model_dir, inputs):
    graph = small_graph(TABLE, inputs=inputs)
    model = OnnxMaskedLM.load(write_small_onnx(tmp_path / "onnx", model_dir, graph), threads=1)
    logits = model.logits_at(IDS, ONES, np.array([4, 1, 1]))
    assert logits.dtype == np.float32
    assert np.array_equal(logits, TABLE[[9, 7, 7]])
    assert model.logits_at(IDS, ONES, np.array([], dtype=np.int64)).shape == (0, model.config.vocab_size)
    reads_token_types = "token_type_ids" in inputs
    assert model.reads_token_types == reads_token_types
    typed = model.logits_at(IDS, ONES, np.array([4]), ONES)
    assert np.array_equal(typed, logits[:1] + reads_token_types)


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT, "float32"), (TensorProto.INT8, "int8")])
def test_a_folder_with_a_graph_is_opened_by_the_runtime_with_its_threads(tmp_path, model_dir, monkeypatch, kind, dtype):
    session = Mock(wraps=onnxruntime.InferenceSession)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    graph = small_graph(TABLE)
    graph.graph.initializer.append(helper.make_tensor("unused", kind, [2], [1, 2]))
    model = open_masked_lm(write_small_onnx(tmp_path / "onnx", model_dir, graph), threads=3)
    assert isinstance(model, OnnxMaskedLM)
    assert model.dtype == dtype
    options = session.call_args.args[1]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert session.call_args.kwargs == {"providers": ["CPUExecutionProvider"]}


def write_unknown_operator(folder):
    graph = small_graph(TABLE)
    graph.graph.node[0].op_type = "NoSuchOperator"
    (folder / "model.onnx").write_bytes(graph.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "no model.onnx"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "gpt2 is not supported"),
        (write_unknown_operator, r"model\.onnx: onnxruntime cannot load it"),
    ],
    ids=["no graph", "no config", "architecture", "operator"],
)
def test_an_unusable_folder_is_rejected_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=f"^{folder}.*{message}.*$"):
        OnnxMaskedLM.load(str(folder))


def test_without_onnxruntime_the_command_that_installs_it_is_shown(folder, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=ModuleNotFoundError))
    with pytest.raises(InputError, match="pip install onnx onnxscript onnxruntime"):
        OnnxMaskedLM.load(str(folder))
