import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distilray.evaluation import efficiency
from distilray.export.variants import write_bf16_folder
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.run_folder import read_manifest
from tests.jobs.commands import content_of, read_json, run_job
from tests.tiny.glue import write_glue
from tests.tiny.models import write_tiny_model
from tests.tiny.onnx import write_small_onnx

TEXT = ["paris is the capital of france.", "a cat", "the old city", "rome and berlin", "one dog"]
# Models with the file of their weights, and the model with the same parameters.
MODELS = {
    "bert": ("model.safetensors", "bert"),
    "distilbert": ("model.safetensors", "distilbert"),
    "bf16": ("model.safetensors", "distilbert"),
    "onnx": ("model.onnx", "distilbert"),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("bert", "distilbert"):
        (folder / name).mkdir()
        write_tiny_model(folder / name, name)
    student = str(folder / "distilbert")
    write_bf16_folder(folder / "bf16", load_masked_lm(student), read_tokenizer(student))
    write_small_onnx(folder / "onnx", student)
    (folder / "text").write_text("\n".join(TEXT))
    return folder


def run(folder, run_dir, *overrides, names=tuple(MODELS), **values):
    models = [{"name": name, "model_dir": str(folder / name)} for name in names]
    recipe = {"models": models, "text_path": str(folder / "text"), "rounds": 2, "threads": 1, "max_length": 16}
    return run_job("measure_efficiency", run_dir, *overrides, **{**recipe, **values})


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("efficiency") / "run"
    assert run(folder, run_dir) == 0
    return run_dir


def test_sizes_are_those_of_transformers_and_of_the_files(folder, measured):
    for name, (file, same) in MODELS.items():
        row = read_json(measured / "efficiency.json")["models"][name]
        assert row["megabytes"] == (folder / name / file).stat().st_size / 1e6
        assert row["parameters"] == AutoModelForMaskedLM.from_pretrained(folder / same).num_parameters()


def test_every_model_has_a_latency_a_throughput_and_a_speedup_over_the_first(measured):
    table = read_json(measured / "efficiency.json")
    assert (table["texts"], table["pairs"], table["threads"]) == (5, False, 1)
    assert table["cpu"]
    for row in table["models"].values():
        assert 0 < row["latency_ms"] <= row["latency_p95_ms"]
        assert row["texts_per_s"] > 0
        low, high = row["latency_speedup_range"]
        assert low <= row["latency_speedup"] <= high
    assert table["models"]["bert"]["latency_speedup"] == table["models"]["bert"]["throughput_speedup"] == 1.0


def test_the_manifest_has_the_timings_outside_the_content(measured):
    assert read_manifest(str(measured))["run"]["timing"]["models"]["onnx"]["latency_ms"] > 0
    assert "latency" not in str(content_of(measured))


def test_the_table_has_a_row_for_each_model(folder, measured, capsys):
    assert run(folder, measured) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    for name, row in read_json(measured / "efficiency.json")["models"].items():
        (line,) = [line for line in lines if f"│ {name} " in line]
        for cell in (f"{row['parameters']:,}", f"{row['latency_ms']:.1f}", f"{row['texts_per_s']:,.0f}"):
            assert f" {cell} " in line


def test_a_dry_run_counts_the_lines_of_a_text(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "run", "--dry-run") == 0
    assert "5 lines, 2 rounds" in capsys.readouterr().out


@pytest.mark.parametrize(("load", "is_reported"), [(0.1, False), (7.0, True)])
def test_a_busy_machine_is_reported(folder, tmp_path, capsys, monkeypatch, load, is_reported):
    monkeypatch.setattr(efficiency.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert run(folder, tmp_path / "run", names=["distilbert"], rounds=1) == 0
    assert ("the machine was already busy (load 7.0)" in capsys.readouterr().out) is is_reported


def single_inputs(folder, first, second, max_length):
    texts = efficiency.Texts(first, second)
    return efficiency.single_inputs(texts, read_tokenizer(str(folder / "bert")), max_length=max_length)


def test_every_text_is_an_input_with_one_mask_in_its_middle(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    for text, batch in zip(TEXT, single_inputs(folder, TEXT, None, 6), strict=True):
        expected = tokenizer(text, truncation=True, max_length=6).input_ids
        assert batch.mask_index.tolist() == [len(expected) // 2]
        assert batch.mask_labels.tolist() == [expected[len(expected) // 2]]
        expected[len(expected) // 2] = tokenizer.mask_token_id
        assert batch.input_ids.tolist() == [expected]


def test_the_dev_pairs_of_sts_b_are_timed_as_pairs(folder, tmp_path):
    glue_dir = write_glue(tmp_path / "glue", ["stsb"], official=True)
    assert run(folder, tmp_path / "run", names=["bert"], text_path=None, glue_dir=glue_dir, max_texts=4) == 0
    table = read_json(tmp_path / "run/efficiency.json")
    assert (table["texts"], table["pairs"]) == (4, True)
    (batch,) = single_inputs(folder, ["a cat"], ["a dog"], 16)
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_models_compute_logits_only_at_the_mask(folder, tmp_path, monkeypatch):
    shapes, open_masked_lm = [], efficiency.open_masked_lm

    def open_watched(folder, **settings):
        model = open_masked_lm(folder, **settings)
        logits_at = model.logits_at

        def watched(input_ids, *inputs):
            shapes.append((len(input_ids), len(logits_at(input_ids, *inputs))))

        model.logits_at = watched
        return model

    monkeypatch.setattr(efficiency, "open_masked_lm", open_watched)
    assert run(folder, tmp_path / "run", names=["distilbert"], rounds=1) == 0
    assert set(shapes) == {(1, 1), (len(TEXT), len(TEXT))}
