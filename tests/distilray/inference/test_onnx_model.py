import json

import numpy as np
import pytest

from distilray.errors import InputError
from distilray.inference.backends import OnnxMaskedLM, open_masked_lm
from distilray.models import onnx_format
from tests.tiny.models import write_tiny_model
from tests.tiny.onnx import small_graph, write_small_onnx

IDS = np.array([[2, 7, 3], [2, 9, 3]])
ONES, ZEROS = np.ones_like(IDS), np.zeros_like(IDS)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture
def folder(tmp_path, model_dir):
    return tmp_path / "onnx", write_small_onnx(tmp_path / "onnx", model_dir)


def refusal(folder):
    with pytest.raises(InputError) as refused:
        OnnxMaskedLM.load(str(folder))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_answer_has_a_row_for_each_mask_in_the_order_of_the_index(folder):
    found = OnnxMaskedLM.load(folder[1], threads=1).logits_at(IDS, ONES, np.array([4, 1, 1]))
    assert found.dtype == np.float32
    assert found.argmax(axis=1).tolist() == [9, 7, 7]


def test_a_graph_with_logits_of_all_tokens_answers_alike(folder, tmp_path, model_dir):
    graph = small_graph(np.eye(113), inputs=onnx_format.STANDARD_INPUTS)
    model = OnnxMaskedLM.load(write_small_onnx(tmp_path / "standard", model_dir, graph), threads=1)
    for index in (np.array([4, 1, 1]), np.array([], dtype=np.int64)):
        expected = OnnxMaskedLM.load(folder[1], threads=1).logits_at(IDS, ONES, index)
        assert np.array_equal(model.logits_at(IDS, ONES, index), expected)


def test_no_mask_gives_no_row(folder):
    model = OnnxMaskedLM.load(folder[1], threads=1)
    assert model.logits_at(IDS, ONES, np.array([], dtype=np.int64)).shape == (0, model.config.vocab_size)


def test_token_types_are_zeros_unless_given(folder):
    model, index = OnnxMaskedLM.load(folder[1], threads=1), np.array([1])
    assert model.reads_token_types
    plain = model.logits_at(IDS, ONES, index)
    assert np.array_equal(plain, model.logits_at(IDS, ONES, index, ZEROS))
    assert np.array_equal(plain + 1, model.logits_at(IDS, ONES, index, ONES))


def test_a_model_without_token_types_ignores_them(tmp_path, model_dir):
    graph = small_graph(np.eye(113), inputs=onnx_format.INPUTS)
    model = OnnxMaskedLM.load(write_small_onnx(tmp_path / "onnx", model_dir, graph), threads=1)
    assert not model.reads_token_types
    index = np.array([1])
    assert np.array_equal(model.logits_at(IDS, ONES, index), model.logits_at(IDS, ONES, index, ONES))


def test_the_number_of_threads_is_what_was_asked_for(folder, monkeypatch):
    import onnxruntime

    asked, plain = [], onnxruntime.InferenceSession

    def watched(data, options, **more):
        asked.append((options.intra_op_num_threads, more["providers"]))
        return plain(data, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    OnnxMaskedLM.load(folder[1], threads=3)
    assert asked == [(3, ["CPUExecutionProvider"])]


@pytest.mark.parametrize("name", ["model.onnx", "config.json"])
def test_a_missing_file_is_named(folder, name):
    (folder[0] / name).unlink()
    assert f"no {name}" in refusal(folder[0])


def test_a_graph_that_the_runtime_cannot_load_is_one_line(tmp_path, model_dir):
    graph = small_graph(np.eye(113))
    graph.graph.node[0].op_type = "NoSuchOperator"
    write_small_onnx(tmp_path / "onnx", model_dir, graph)
    assert "onnxruntime cannot load it" in refusal(tmp_path / "onnx")


def test_another_architecture_is_refused(folder):
    config = json.loads((folder[0] / "config.json").read_text())
    (folder[0] / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    assert "model type gpt2 is not supported; use bert or distilbert" in refusal(folder[0])


def test_without_onnxruntime_the_command_to_install_it_is_shown(folder, monkeypatch):
    import importlib

    plain = importlib.import_module

    def absent(name):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert "pip install onnx onnxscript onnxruntime" in refusal(folder[0])


def test_a_folder_with_a_graph_is_opened_by_the_runtime(folder):
    assert isinstance(open_masked_lm(folder[1], threads=1), OnnxMaskedLM)
