import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.config.export import ExportModelConfig
from distilray.export import table, variants
from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.runtime.run_folder import read_manifest
from distilray.stages import STAGES
from tests.jobs.commands import content_of, file_names, read_json, run_job
from tests.tiny.models import write_tiny_model
from tests.tiny.onnx import small_graph
from tests.tiny.words import WORDS

FILES = {"config.json", "tokenizer.json", "tokenizer_config.json"}
WEIGHTS = {"onnx": "model.onnx", "onnx-standard": "model.onnx", "onnx-int8": "model.onnx", "bf16": "model.safetensors"}
LENIENT = {"min_agreement": 0.8}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of each architecture, and a text of sentences in their words."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("bert", "distilbert"):
        (folder / name).mkdir()
        write_tiny_model(folder / name, name)
    random = np.random.default_rng(4)
    (folder / "text").write_text("\n".join(" ".join(random.choice(WORDS, 12)) for _ in range(60)))
    return folder


def run(folder, run_dir, *overrides, model="distilbert", **values):
    recipe = {"model_dir": str(folder / model), "text_path": str(folder / "text"), "variants": ["bf16"]}
    return run_job("export_model", run_dir, *overrides, **{**recipe, **values})


def report_of(run_dir):
    return read_json(run_dir / "parity_report.json")


# Without ONNX: everything that does not depend on the format.


@pytest.fixture(scope="module")
def published(folder, tmp_path_factory):
    """Complete run with the format bf16, which started in the folder of an interrupted run."""
    run_dir = tmp_path_factory.mktemp("published") / "run"
    (run_dir / "onnx-int8").mkdir(parents=True)
    (run_dir / "onnx-int8/model.onnx").write_text("half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "push", lambda *files, **settings: pytest.fail("uploaded without push.repo_id"))
        assert run(folder, run_dir, gate=LENIENT) == 0
    return run_dir


def test_a_format_within_the_limits_is_published_with_its_scores(published):
    report = report_of(published)
    assert report["text"] == {"examples": 60, "masks": 120, "dropped": 0}
    scores = report["variants"]["bf16"]
    assert scores["published"] is True
    assert 0.8 <= scores["agreement"] <= 1
    change = scores["pseudo_perplexity"] / report["model"]["pseudo_perplexity"] - 1
    assert scores["pseudo_perplexity_change"] == pytest.approx(change)
    assert 0 < abs(change) < 0.2
    assert file_names(published / "bf16") == {*FILES, "model.safetensors"}
    assert set(content_of(published)["outputs"]) == {f"bf16/{name}" for name in file_names(published / "bf16")}


def test_files_of_an_interrupted_run_are_removed(published):
    assert not (published / "onnx-int8").exists()


def test_scores_and_features_of_the_cpu_are_printed_and_the_cpu_is_recorded_outside_the_content(
    folder, published, capsys
):
    manifest = read_manifest(str(published))
    assert manifest["run"]["timing"]["cpu"] == report_of(published)["cpu"]
    assert "cpu" not in json.dumps(manifest["content"])
    assert run(folder, published, gate=LENIENT) == 0
    output, scores = capsys.readouterr().out, report_of(published)["variants"]["bf16"]
    for text in ("CPU: ", f"{scores['agreement']:.2%}", f"{scores['pseudo_perplexity_change']:+.2%}"):
        assert text in output


def test_int8_on_a_cpu_without_fast_instructions_prints_a_warning(folder, published, tmp_path, capsys):
    run_dir = shutil.copytree(published, tmp_path / "run")
    report = report_of(run_dir)
    report["variants"]["onnx-int8"], report["cpu"]["features"] = report["variants"]["bf16"], []
    (run_dir / "parity_report.json").write_text(json.dumps(report))
    assert run(folder, run_dir, gate=LENIENT) == 0
    assert "onnx-int8: this CPU has no 8-bit dot product" in capsys.readouterr().out


def test_a_format_beyond_a_limit_is_not_published_and_the_job_fails_with_its_scores(folder, tmp_path, capfd):
    run_dir = tmp_path / "run"
    assert run(folder, run_dir, gate={"max_perplexity_change": 0}) == 1
    first, second, *others = capfd.readouterr().err.splitlines()
    assert "bf16 not published" in first
    assert "pseudo-perplexity changed by" in second
    assert "(at most 0.00%)" in second
    assert not [line for line in others if "Traceback" in line]
    assert file_names(run_dir) == {"config.yaml", "parity_report.json"}
    assert report_of(run_dir)["variants"]["bf16"]["published"] is False


def test_a_graph_with_other_logits_is_rejected_and_nothing_is_published(folder, tmp_path, capfd, monkeypatch):
    wrong = small_graph(np.eye(113)).SerializeToString()
    monkeypatch.setattr(variants, "onnx_graph", lambda model: wrong)
    assert run(folder, tmp_path / "run", model="bert", variants=["bf16", "onnx"]) == 1
    error = capfd.readouterr().err.splitlines()[0]
    assert "nothing is published: the logits of the ONNX graph differ by" in error
    assert file_names(tmp_path / "run") == {"config.yaml", "parity_report.json"}


def test_a_graph_alone_needs_no_text(folder):
    config = ExportModelConfig(run_dir="r", model_dir=str(folder / "bert"), variants=("onnx",))
    assert STAGES["export_model"].job().inputs(config).keys() == {"model", "model_config"}


def test_a_complete_run_is_uploaded_without_running_again(folder, published, monkeypatch, capsys):
    pushed = []

    def push(files, **settings):
        pushed.append((files, settings))
        return "the hub"

    for name in ("README.md", "notes.txt"):
        (published / name).write_text("x")
    modified = (published / "bf16/model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(table, "push", push)
    assert run(folder, published, "push.repo_id=me/model", gate=LENIENT) == 0
    ((files, settings),) = pushed
    own = {*FILES, "model.safetensors"}
    assert set(files) == own | {f"bf16/{name}" for name in own} | {"README.md", "parity_report.json"}
    assert (settings["repo_id"], settings["private"]) == ("me/model", True)
    assert (published / "bf16/model.safetensors").stat().st_mtime_ns == modified
    assert "uploaded 10 files -> the hub" in capsys.readouterr().out


# With ONNX: tracing takes seconds, so each architecture is exported once.


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def exported(request, folder, tmp_path_factory):
    """Model folder, and a complete run with all formats."""
    run_dir = tmp_path_factory.mktemp("export") / "run"
    gate = {"min_agreement": 0.5, "max_perplexity_change": 0.5}
    int8 = {"reduce_range": True}  # otherwise the predictions depend on the CPU
    assert run(folder, run_dir, model=request.param, variants=list(WEIGHTS), gate=gate, int8=int8) == 0
    return folder / request.param, run_dir


def logits_of(model_dir, inputs):
    """Return the logits of transformers, and the inputs of the model among the given ones."""
    model = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if model.config.model_type == "bert" else [])]
    inputs = {name: inputs[name] for name in names}
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy(), inputs


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "length"), [(1, 2), (1, 48), (7, 5), (3, 31)])
def test_the_graph_gives_the_logits_of_transformers_at_the_masks(exported, rows, length):
    model_dir, run_dir = exported
    random = np.random.default_rng(rows + length)
    ids = random.integers(5, 113, (rows, length))
    attention = (np.arange(length) < random.integers(2, length, (rows, 1), endpoint=True)).astype(np.int64)
    types = (np.arange(length) >= length // 2).astype(np.int64)[None].repeat(rows, axis=0)
    masks = np.flatnonzero(attention)[:: random.integers(1, 4)]
    expected, _ = logits_of(model_dir, {"input_ids": ids, "attention_mask": attention, "token_type_ids": types})
    logits = OnnxMaskedLM.load(str(run_dir / "onnx"), threads=1).logits_at(ids, attention, masks, types)
    assert logits.shape == (len(masks), expected.shape[-1])
    assert np.abs(logits - expected.reshape(-1, expected.shape[-1])[masks]).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("texts", [["paris is [MASK]"], ["the [MASK] of", "good"]])
def test_the_standard_graph_gives_the_logits_of_transformers_for_the_output_of_its_tokenizer(exported, texts):
    model_dir, run_dir = exported
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "onnx-standard")
    expected, inputs = logits_of(model_dir, tokenizer(texts, padding=True, return_tensors="np"))
    session = onnxruntime.InferenceSession(run_dir / "onnx-standard/model.onnx")
    assert {value.name for value in session.get_inputs()} == set(inputs)
    (logits,) = session.run(["logits"], inputs)
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= 1e-4


@pytest.mark.slow
def test_the_vocabulary_head_sees_the_masks_only(exported):
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(exported[1] / "onnx/model.onnx")).graph
    wide = [value for value in [*graph.value_info, *graph.output] for size in value.type.tensor_type.shape.dim[-1:]
            if size.dim_value == 113 and len(value.type.tensor_type.shape.dim) > 1]  # fmt: skip
    dimensions = {tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in wide}
    assert dimensions == {("masks", 113)}


@pytest.mark.slow
def test_every_folder_is_complete_and_the_report_has_its_size(exported):
    model_dir, run_dir = exported
    expected = AutoTokenizer.from_pretrained(model_dir)("paris is [MASK]").input_ids
    for name, entry in report_of(run_dir)["variants"].items():
        assert file_names(run_dir / name) == {*FILES, WEIGHTS[name]}
        assert entry["megabytes"] == (run_dir / name / WEIGHTS[name]).stat().st_size / 1e6
        assert AutoTokenizer.from_pretrained(run_dir / name)("paris is [MASK]").input_ids == expected


@pytest.mark.slow
def test_int8_matrices_are_int8_and_predictions_stay_close(exported):
    import onnx

    run_dir = exported[1]
    graph = onnx.load(run_dir / "onnx-int8/model.onnx").graph
    products = [node.op_type for node in graph.node if node.op_type in ("MatMulInteger", "Gemm")]
    assert products == ["MatMulInteger"] * 14  # two layers of six, and the two of the head
    entry = report_of(run_dir)["variants"]["onnx-int8"]
    assert 0.7 < entry["agreement"] <= 1
    assert abs(entry["pseudo_perplexity_change"]) < 0.2


@pytest.mark.slow
def test_the_report_names_every_compared_shape_and_the_limit(exported):
    parity = report_of(exported[1])["parity"]
    assert parity["limit"] == 1e-4
    assert parity["max_difference"] == max(case["max_difference"] for case in parity["cases"]) <= 1e-4
    shapes = {(case["graph"], case["batch"], case["length"]) for case in parity["cases"]}
    assert {(graph, 1, length) for graph in ("onnx", "onnx-standard") for length in (3, 48)} <= shapes


@pytest.mark.slow
def test_a_graph_contains_no_path_and_no_code(exported, root):
    for name in ("onnx", "onnx-standard", "onnx-int8"):
        data = (exported[1] / name / "model.onnx").read_bytes()
        assert not [word for word in (b"site-packages", b".py", str(root).encode()) if word in data]
