import json

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.config.export import ExportModelConfig
from distilray.export import table, variants
from distilray.inference.onnx_model import OnnxMaskedLM
from distilray.models import hub
from distilray.stages import STAGES
from jobs import export_model
from tests.tiny.models import write_tiny_model
from tests.tiny.onnx import small_graph
from tests.tiny.recipes import write_recipe
from tests.tiny.words import WORDS

FILES = {"config.json", "tokenizer.json", "tokenizer_config.json"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each architecture, and a text of sentences in their words."""
    work = tmp_path_factory.mktemp("models")
    for name in ("bert", "distilbert"):
        (work / name).mkdir()
        write_tiny_model(work / name, name)
    random = np.random.default_rng(4)
    (work / "text").write_text("\n".join(" ".join(random.choice(WORDS, 12)) for _ in range(60)))
    return work


def run(folders, run_dir, *overrides, model="distilbert", **values):
    run_dir.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(
        run_dir.parent,
        run_dir=str(run_dir),
        model_dir=str(folders / model),
        **{"text_path": str(folders / "text"), "variants": ["bf16"], **values},
    )
    return export_model.main(["--recipe", recipe, *overrides])


def report_of(run_dir):
    return json.loads((run_dir / "parity_report.json").read_text())


def names_in(folder):
    return {file.name for file in folder.iterdir()}


# Without ONNX: all that does not depend on the format.


def test_a_format_that_passes_is_published_with_its_figures(folders, tmp_path):
    run_dir = tmp_path / "run"
    assert run(folders, run_dir, gate={"min_agreement": 0.8}) == 0
    assert names_in(run_dir / "bf16") == {*FILES, "model.safetensors"}
    report = report_of(run_dir)
    assert report["variants"]["bf16"]["published"] is True
    assert 0.8 <= report["variants"]["bf16"]["agreement"] <= 1
    assert report["text"] == {"examples": 60, "masks": 120, "dropped": 0}
    outputs = json.loads((run_dir / "manifest.json").read_text())["content"]["outputs"]
    assert set(outputs) == {f"bf16/{name}" for name in names_in(run_dir / "bf16")}


def test_the_figures_are_those_of_two_models_on_the_same_masks(folders, tmp_path):
    assert run(folders, tmp_path / "run", gate={"min_agreement": 0.0, "max_perplexity_change": 9}) == 0
    report = report_of(tmp_path / "run")
    change = report["variants"]["bf16"]["pseudo_perplexity"] / report["model"]["pseudo_perplexity"] - 1
    assert report["variants"]["bf16"]["pseudo_perplexity_change"] == pytest.approx(change)
    assert 0 < abs(change) < 0.2


def test_a_format_beyond_a_bound_is_not_published_and_the_job_fails_with_the_figures(folders, tmp_path, capfd):
    run_dir = tmp_path / "run"
    assert run(folders, run_dir, gate={"max_perplexity_change": 0}) == 1
    lines = capfd.readouterr().err.splitlines()
    assert "bf16 not published" in lines[0]
    assert "pseudo-perplexity changed by" in lines[1]
    assert "(at most 0.00%)" in lines[1]
    assert not any("Traceback" in line for line in lines)
    assert names_in(run_dir) == {"config.yaml", "parity_report.json"}
    assert report_of(run_dir)["variants"]["bf16"]["published"] is False


def test_what_a_killed_run_has_left_of_a_format_is_not_taken_for_its_result(folders, tmp_path):
    (tmp_path / "run/onnx-int8").mkdir(parents=True)
    (tmp_path / "run/onnx-int8/model.onnx").write_text("half")
    assert run(folders, tmp_path / "run", gate={"min_agreement": 0.8}) == 0
    assert not (tmp_path / "run/onnx-int8").exists()


def test_a_graph_with_other_logits_is_refused_and_nothing_is_published(folders, tmp_path, capfd, monkeypatch):
    wrong = small_graph(np.eye(113)).SerializeToString()
    monkeypatch.setattr(variants, "onnx_graph", lambda model: wrong)
    run_dir = tmp_path / "run"
    assert run(folders, run_dir, model="bert", variants=["bf16", "onnx"]) == 1
    err = capfd.readouterr().err
    assert "nothing is published: the logits of the ONNX graph differ by" in err.splitlines()[0]
    assert names_in(run_dir) == {"config.yaml", "parity_report.json"}


def test_two_runs_have_the_same_content(folders, tmp_path):
    hashes = set()
    for name in ("a", "b"):
        assert run(folders, tmp_path / name, gate={"min_agreement": 0.8}) == 0
        hashes.add(json.loads((tmp_path / name / "manifest.json").read_text())["content_hash"])
    assert len(hashes) == 1


def test_the_features_of_the_cpu_are_recorded_outside_the_content(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", gate={"min_agreement": 0.8}) == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["run"]["timing"]["cpu"] == report_of(tmp_path / "run")["cpu"]
    assert "cpu" not in json.dumps(manifest["content"])
    assert "CPU: " in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_writes_nothing(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "--dry-run") == 0
    assert "60 examples, 120 masks" in capsys.readouterr().out
    assert names_in(tmp_path / "run") == set()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text_path": None}, "bf16 must be evaluated on a text"),
        ({"shards_dir": "x"}, "keep one of them"),
        ({"text_path": "/no/text"}, "/no/text"),
        ({"model_dir": "/no/model"}, "/no/model"),
        ({"variants": ["bf16", "bf16"]}, "contains a duplicate"),
        ({"max_logit_difference": 1e-3}, "max_logit_difference"),
        ({"push": {"repo_id": "no-owner"}}, "push.repo_id"),
    ],
)
def test_a_model_that_cannot_be_exported_is_reported_in_one_line(folders, tmp_path, capfd, values, said):
    overrides = [f"model_dir={values.pop('model_dir')}"] if "model_dir" in values else []
    assert run(folders, tmp_path / "run", *overrides, **values) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_the_graph_alone_needs_no_text(folders):
    config = ExportModelConfig(run_dir="r", model_dir=str(folders / "bert"), variants=("onnx",))
    assert STAGES["export_model"].job().inputs(config).keys() == {"model", "model_config"}


def test_nothing_is_uploaded_unless_asked_for(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "push", lambda *given, **settings: pytest.fail("uploaded"))
    assert run(folders, tmp_path / "run", gate={"min_agreement": 0.8}) == 0


def test_offline_an_upload_is_refused_before_the_work(folders, tmp_path, capfd):
    assert run(folders, tmp_path / "run", "push.repo_id=me/model") == 2
    assert "HF_HUB_OFFLINE is set" in capfd.readouterr().err
    assert names_in(tmp_path / "run") == set()


def test_a_complete_run_is_uploaded_without_being_made_again(folders, tmp_path, monkeypatch, capsys):
    run_dir, pushed = tmp_path / "run", []
    assert run(folders, run_dir, gate={"min_agreement": 0.8}) == 0
    for name in ("README.md", "notes.txt", "bf16/weights.bin"):
        (run_dir / name).write_text("x")
    (run_dir / "bf16/weights.bin").unlink()
    made = (run_dir / "bf16/model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(table, "push", lambda files, **settings: pushed.append((files, settings)) or "the hub")
    assert run(folders, run_dir, "push.repo_id=me/model", gate={"min_agreement": 0.8}) == 0
    files, settings = pushed[0]
    own = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(files) == own | {f"bf16/{name}" for name in own} | {"README.md", "parity_report.json"}
    assert all(name == hub.README_FILE or name.endswith(hub.PUSHED_SUFFIXES) for name in files)
    assert (settings["repo_id"], settings["private"]) == ("me/model", True)
    assert (run_dir / "bf16/model.safetensors").stat().st_mtime_ns == made
    assert "uploaded 10 files -> the hub" in capsys.readouterr().out


# With ONNX: tracing takes seconds, so each architecture is exported once.


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def exported(request, folders, tmp_path_factory):
    """The model folder and the complete run of all formats."""
    run_dir = tmp_path_factory.mktemp("export") / "run"
    code = run(
        folders,
        run_dir,
        model=request.param,
        variants=["onnx", "onnx-standard", "onnx-int8", "bf16"],
        gate={"min_agreement": 0.5, "max_perplexity_change": 0.5},
        int8={"reduce_range": True},  # else the answers of int8 depend on the CPU
    )
    assert code == 0
    return folders / request.param, run_dir


def inputs_of(rows, length, seed):
    random = np.random.default_rng(seed)
    ids = random.integers(5, 113, (rows, length))
    attention = (np.arange(length) < random.integers(2, length, (rows, 1), endpoint=True)).astype(np.int64)
    types = (np.arange(length) >= length // 2).astype(np.int64)[None].repeat(rows, axis=0)
    return ids, attention, np.flatnonzero(attention)[:: random.integers(1, 4)], types


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "length"), [(1, 2), (1, 48), (7, 5), (3, 31)])
def test_the_graph_gives_the_logits_of_transformers_at_the_masks(exported, rows, length):
    model_dir, run_dir = exported
    plain = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    ids, attention, masks, types = inputs_of(rows, length, seed=rows + length)
    given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attention)}
    if plain.config.model_type == "bert":
        given["token_type_ids"] = torch.from_numpy(types)
    with torch.no_grad():
        expected = plain(**given).logits.flatten(0, 1)[masks].numpy()
    found = OnnxMaskedLM.load(str(run_dir / "onnx"), threads=1).logits_at(ids, attention, masks, types)
    assert found.shape == (len(masks), plain.config.vocab_size)
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("texts", [["paris is [MASK]"], ["the [MASK] of", "good"]])
def test_the_standard_graph_gives_the_logits_of_transformers_for_what_its_tokenizer_returns(exported, texts):
    model_dir, run_dir = exported
    plain = AutoModelForMaskedLM.from_pretrained(model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "onnx-standard")
    session = onnxruntime.InferenceSession(run_dir / "onnx-standard/model.onnx")
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if plain.config.model_type == "bert" else [])]
    assert {value.name for value in session.get_inputs()} == set(names)
    inputs = tokenizer(texts, padding=True, return_tensors="np")
    (logits,) = session.run(["logits"], {name: inputs[name] for name in names})
    with torch.no_grad():
        expected = plain(**{name: torch.from_numpy(inputs[name]) for name in names}).logits.numpy()
    assert logits.shape == (*inputs["input_ids"].shape, plain.config.vocab_size)
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
def test_every_folder_is_whole_and_says_its_size(exported):
    model_dir, run_dir = exported
    weights = {
        "onnx": "model.onnx",
        "onnx-standard": "model.onnx",
        "onnx-int8": "model.onnx",
        "bf16": "model.safetensors",
    }
    for name, entry in report_of(run_dir)["variants"].items():
        assert names_in(run_dir / name) == {*FILES, weights[name]}
        assert entry["megabytes"] == (run_dir / name / weights[name]).stat().st_size / 1e6
        text = "paris is [MASK]"
        ids = [AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (model_dir, run_dir / name)]
        assert ids[0] == ids[1]


@pytest.mark.slow
def test_int8_matrices_are_int8_and_answers_stay_close(exported):
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
def test_no_path_and_no_line_of_code_is_in_a_graph(exported, root):
    for name in ("onnx", "onnx-standard", "onnx-int8"):
        data = (exported[1] / name / "model.onnx").read_bytes()
        assert not [word for word in (b"site-packages", b".py", str(root).encode()) if word in data]
