import json

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.evaluation import efficiency
from distilray.export.variants import write_bf16_folder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from jobs import measure_efficiency
from tests.tiny.glue import write_glue
from tests.tiny.models import write_tiny_model
from tests.tiny.onnx import write_small_onnx
from tests.tiny.recipes import write_recipe

TEXT = ["paris is the capital of france.", "a cat", "the old city", "rome and berlin", "one dog"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A BERT, a DistilBERT, that in bf16, and a graph with its configuration; a text."""
    work = tmp_path_factory.mktemp("models")
    for name in ("bert", "distilbert"):
        (work / name).mkdir()
        write_tiny_model(work / name, name)
    student = str(work / "distilbert")
    write_bf16_folder(work / "bf16", load_masked_lm(student), read_tokenizer(student))
    write_small_onnx(work / "onnx", student)
    (work / "text").write_text("\n".join(TEXT))
    return work


def run(folders, run_dir, *overrides, names=("bert", "distilbert", "bf16", "onnx"), **values):
    run_dir.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(
        run_dir.parent,
        run_dir=str(run_dir),
        models=[{"name": name, "model_dir": str(folders / name)} for name in names],
        **{"text_path": str(folders / "text"), "rounds": 2, "threads": 1, "max_length": 16, **values},
    )
    return measure_efficiency.main(["--recipe", recipe, *overrides])


@pytest.fixture(scope="module")
def table(folders, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("efficiency") / "run"
    assert run(folders, run_dir) == 0
    return json.loads((run_dir / "efficiency.json").read_text())


def test_sizes_are_those_of_transformers_and_of_the_files(folders, table):
    for name, file, same in (
        ("bert", "model.safetensors", "bert"),
        ("distilbert", "model.safetensors", "distilbert"),
        ("bf16", "model.safetensors", "distilbert"),
        ("onnx", "model.onnx", "distilbert"),
    ):
        row = table["models"][name]
        assert row["megabytes"] == (folders / name / file).stat().st_size / 1e6
        assert row["parameters"] == AutoModelForMaskedLM.from_pretrained(folders / same).num_parameters()


def test_every_model_has_a_latency_a_throughput_and_a_ratio_to_the_first(table):
    assert (table["texts"], table["pairs"], table["threads"]) == (5, False, 1)
    assert table["cpu"]
    for row in table["models"].values():
        assert 0 < row["latency_ms"] <= row["latency_p95_ms"]
        assert row["texts_per_s"] > 0
        low, high = row["latency_speedup_range"]
        assert low <= row["latency_speedup"] <= high
    assert table["models"]["bert"]["latency_speedup"] == table["models"]["bert"]["throughput_speedup"] == 1.0


def test_every_text_is_an_input_with_one_mask_in_its_middle(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders / "bert")
    singles = efficiency.single_inputs(
        efficiency.Texts(TEXT, None), read_tokenizer(str(folders / "bert")), max_length=6
    )
    for text, batch in zip(TEXT, singles, strict=True):
        expected = tokenizer(text, truncation=True, max_length=6).input_ids
        assert batch.mask_index.tolist() == [len(expected) // 2]
        assert batch.mask_labels.tolist() == [expected[len(expected) // 2]]
        expected[len(expected) // 2] = tokenizer.mask_token_id
        assert batch.input_ids.tolist() == [expected]


def test_the_dev_pairs_of_sts_b_are_timed_as_pairs(folders, tmp_path):
    glue_dir = write_glue(tmp_path / "glue", ["stsb"], official=True)
    assert run(folders, tmp_path / "run", names=("bert",), text_path=None, glue_dir=glue_dir, max_texts=4) == 0
    found = json.loads((tmp_path / "run/efficiency.json").read_text())
    assert (found["texts"], found["pairs"]) == (4, True)
    batch = efficiency.single_inputs(
        efficiency.Texts(["a cat"], ["a dog"]), read_tokenizer(str(folders / "bert")), max_length=16
    )[0]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_two_runs_have_the_same_content_whatever_the_clock_says(folders, tmp_path):
    manifests = []
    for name in ("a", "b"):
        assert run(folders, tmp_path / name) == 0
        manifests.append(json.loads((tmp_path / name / "manifest.json").read_text()))
    assert manifests[0]["content_hash"] == manifests[1]["content_hash"]
    assert manifests[0]["run"]["timing"]["models"]["onnx"]["latency_ms"] > 0


def test_the_table_has_a_line_for_each_model(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run") == 0
    table = capsys.readouterr().out
    assert all(any(name in line for line in table.splitlines()) for name in ("bert", "distilbert", "bf16", "onnx"))


@pytest.mark.parametrize(("load", "told"), [(0.1, False), (7.0, True)])
def test_a_busy_machine_is_told(folders, tmp_path, capsys, monkeypatch, load, told):
    monkeypatch.setattr(efficiency.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert run(folders, tmp_path / "run", names=("distilbert",), rounds=1) == 0
    assert ("the machine was already busy (load 7.0)" in capsys.readouterr().out) is told


def test_a_dry_run_prints_the_plan_and_writes_nothing(folders, tmp_path, capsys):
    assert run(folders, tmp_path / "run", "--dry-run") == 0
    assert "5 lines, 2 rounds" in capsys.readouterr().out
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text_path": None}, "exactly one of glue_dir and text_path"),
        ({"glue_dir": "x"}, "exactly one of glue_dir and text_path"),
        ({"names": ("bert", "bert")}, "models: duplicate name"),
        ({"names": ("bert", "none")}, "none: no such folder"),
        ({"text_path": "/no/text"}, "/no/text"),
    ],
)
def test_what_cannot_be_measured_is_one_line(folders, tmp_path, capfd, values, said):
    assert run(folders, tmp_path / "run", **values) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_models_answer_at_the_mask_only(folders, tmp_path, monkeypatch):
    shapes, plain = [], efficiency.open_masked_lm

    def opened(folder, **settings):
        model = plain(folder, **settings)
        answer = model.logits_at
        model.logits_at = lambda *inputs: shapes.append((inputs[0].shape, answer(*inputs).shape))
        return model

    monkeypatch.setattr(efficiency, "open_masked_lm", opened)
    assert run(folders, tmp_path / "run", names=("distilbert",), rounds=1) == 0
    assert all(answer[0] == inputs[0] for inputs, answer in shapes)
    assert {inputs[0] for inputs, _ in shapes} == {1, len(TEXT)}
