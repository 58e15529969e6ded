"""Recipe values of evaluation and export reach the models and the files."""

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from transformers import GPT2LMHeadModel
from transformers.models.distilbert.modeling_distilbert import Embeddings

from distilray.config.evaluation import EvaluateBiasConfig, EvaluateFillMaskConfig, MeasureEfficiencyConfig
from distilray.config.export import ExportModelConfig
from distilray.config.report import ReportConfig
from distilray.errors import DataQualityError
from distilray.evaluation.bias.evaluate_bias import evaluate_bias
from distilray.evaluation.efficiency import measure_efficiency
from distilray.evaluation.fill_mask import chunk_scorer
from distilray.evaluation.fill_mask.evaluate_fill_mask import evaluate_fill_mask
from distilray.export import table, variants
from distilray.report.model_card import model_card
from distilray.report.runs import read_runs
from distilray.runtime.run_folder import RunFolder
from tests.tiny.fill_mask import rows_of, score_in_process, write_rows, write_tiny_gpt2
from tests.tiny.models import write_tiny_model
from tests.tiny.runs import write_line


class ReachedError(Exception):
    """Raised to end a test at the call under test."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model, a causal model, masked texts and plain texts."""
    folder = tmp_path_factory.mktemp("evaluation")
    for name in ("model", "causal"):
        (folder / name).mkdir()
    write_tiny_model(folder / "model", "distilbert")
    write_tiny_gpt2(folder / "causal")
    write_rows(folder / "data.jsonl", rows_of(14))
    write_rows(folder / "data.txt", rows_of(14))
    (folder / "text").write_text("\n".join(row["texts"].replace("<mask>", "rome") for row in rows_of(12)))
    return folder


@pytest.fixture
def shapes(monkeypatch):
    """(rows, tokens) of each forward pass of the masked language model, or of another model."""

    def record(model):
        recorded, forward = [], model.forward

        def recording(self, input_ids, *rest, **options):
            recorded.append(tuple(input_ids.shape))
            return forward(self, input_ids, *rest, **options)

        monkeypatch.setattr(model, "forward", recording)
        return recorded

    return record


@pytest.fixture
def run_dir(tmp_path):
    """A function that returns the next run folder."""
    return lambda: tmp_path / str(len(list(tmp_path.iterdir())))


@pytest.fixture
def fill_mask(work, run_dir, monkeypatch):
    """Evaluate the model on the masked texts; return the scores and the run folder."""
    score_in_process(monkeypatch)

    def run(**changes):
        folder = run_dir()
        data = {"path": str(work / "data.jsonl"), "left_to_right": False, **changes.pop("data", {})}
        values = {"run_dir": str(folder), "student_dir": str(work / "model"), "data": data, "precision": "fp32"}
        config = EvaluateFillMaskConfig.model_validate({"latency_examples": 0, **values, **changes})
        evaluate_fill_mask(config, RunFolder("evaluate_fill_mask", config, {}))
        return json.loads((folder / "scores.json").read_text()), folder

    return run


@pytest.fixture
def bias(work, run_dir):
    def run(**changes):
        folder = run_dir()
        values = {"run_dir": str(folder), "models": {"one": str(work / "model")}, **changes}
        config = EvaluateBiasConfig.model_validate(values)
        evaluate_bias(config, RunFolder("evaluate_bias", config, {}))
        return json.loads((folder / "scores.json").read_text())

    return run


@pytest.fixture
def export(work, run_dir):
    def run(**changes):
        values = {"run_dir": str(run_dir()), "model_dir": str(work / "model"), "text_path": str(work / "text")}
        gate = {"min_agreement": 0.0, "max_perplexity_change": 100.0}
        config = ExportModelConfig.model_validate({**values, "variants": ["bf16"], "gate": gate, **changes})
        run = RunFolder("export_model", config, {})
        return run, variants.export_model(config, run)

    return run


@pytest.mark.parametrize("stage", ["fill_mask", "bias", "export"])
def test_a_batch_has_at_most_the_rows_of_the_recipe(request, shapes, stage):
    recorded = shapes(Embeddings)
    request.getfixturevalue(stage)(batch_size=3)
    assert max(rows for rows, _ in recorded) == 3


@pytest.mark.parametrize("tokens", [48, 200])
def test_a_batch_has_at_most_so_many_tokens(fill_mask, shapes, monkeypatch, tokens):
    monkeypatch.setattr(chunk_scorer, "MAX_BATCH_TOKENS", tokens)
    recorded = shapes(Embeddings)
    fill_mask(batch_size=32)
    sizes = [rows * (width - 7) for rows, width in recorded if rows > 1]  # widths are rounded up to multiples of 8
    assert all(size <= tokens for size in sizes)
    assert (max(sizes, default=0) > 48) is (tokens > 48)


def test_a_batch_of_the_causal_model_has_the_rows_of_the_recipe(fill_mask, work, shapes):
    recorded = shapes(GPT2LMHeadModel)
    fill_mask(causal={"model_dir": str(work / "causal"), "batch_size": 3})
    assert max(rows for rows, _ in recorded) == 3


def test_the_start_token_of_the_causal_model_is_that_of_the_recipe(fill_mask, work):
    def perplexities(start):
        _, folder = fill_mask(causal={"model_dir": str(work / "causal"), "add_start_token": start})
        (file,) = (folder / "predictions").iterdir()
        return pq.read_table(file).column("student_perplexity").to_pylist()

    assert perplexities(start=True) != perplexities(start=False)


def test_left_to_right_scoring_takes_more_passes(fill_mask, shapes):
    recorded = shapes(Embeddings)
    fill_mask()
    joint = len(recorded)
    fill_mask(data={"left_to_right": True})
    assert len(recorded) - joint > joint


def test_rows_and_format_are_those_of_the_recipe(fill_mask, work):
    assert fill_mask(max_examples=7)[0]["rows"] == 7
    text, _ = fill_mask(data={"path": str(work / "data.txt"), "format": "jsonl"})
    auto, _ = fill_mask(data={"format": "auto"})
    assert text["masks"] == auto["masks"]


def test_an_interval_of_a_lower_level_is_narrower(fill_mask):
    intervals = [
        fill_mask(bootstrap={"level": level, "resamples": 200})[0]["intervals"]["student"]["hit@10"]
        for level in (0.5, 0.95)
    ]
    widths = [high - low for low, high in intervals]
    assert 0 < widths[0] < widths[1]


@pytest.mark.parametrize("count", [3, 6])
def test_a_probe_has_as_many_answers_as_the_recipe_requests(bias, count):
    probes = bias(top_k=count)["probes"]
    assert {len(each["answers"]["one"]) for each in [*probes["card"], *probes["table"]]} == {count}


def test_the_efficiency_is_measured_with_batch_length_and_texts_of_the_recipe(work, tmp_path, shapes):
    values = {"run_dir": str(tmp_path), "models": [{"name": "one", "model_dir": str(work / "model")}]}
    limits = {"batch_size": 4, "max_length": 6, "max_texts": 9, "rounds": 1, "threads": 1}
    config = MeasureEfficiencyConfig.model_validate({**values, "text_path": str(work / "text"), **limits})
    recorded = shapes(Embeddings)
    measure_efficiency(config, RunFolder("measure_efficiency", config, {}))
    assert json.loads((tmp_path / "efficiency.json").read_text())["texts"] == 9
    assert tuple(map(max, zip(*recorded, strict=True))) == (4, 6)
    assert sum(rows == 1 for rows, _ in recorded) >= 9


@pytest.mark.parametrize(("per_channel", "reduce_range"), [(True, False), (False, True)])
def test_the_settings_of_int8_reach_the_quantization(export, monkeypatch, per_channel, reduce_range):
    def int8_graph(graph, **settings):
        raise ReachedError(settings)

    monkeypatch.setattr(variants, "onnx_graph", lambda model: b"")
    monkeypatch.setattr(variants, "write_onnx_folder", lambda *_: None)
    monkeypatch.setattr(variants, "_parity", lambda *_: [])
    monkeypatch.setattr(variants, "int8_graph", int8_graph)
    settings = {"per_channel": per_channel, "reduce_range": reduce_range}
    with pytest.raises(ReachedError) as reached:
        export(variants=["onnx-int8"], int8=settings)
    assert reached.value.args == (settings,)


def test_a_graph_may_differ_by_the_limit_of_the_recipe(export, monkeypatch):
    case = SimpleNamespace(graph="onnx", batch=1, length=2, masks=1, max_difference=1e-6)
    build = variants._build
    monkeypatch.setattr(variants, "_build", lambda *arguments: [*build(*arguments), case])
    monkeypatch.setattr(variants, "asdict", lambda value: dict(vars(value)))
    assert export(max_logit_difference=1e-4)[1].outputs
    with pytest.raises(DataQualityError, match="nothing is published"):
        export(max_logit_difference=1e-9)


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_is_private_if_the_recipe_requests_it(export, monkeypatch, private):
    pushed = {}
    monkeypatch.setattr(variants, "check_push", lambda repo_id: None)
    monkeypatch.setattr(table, "push", lambda files, **settings: pushed.update(settings) or "https://hub.example/me/it")
    run, outcome = export(push={"repo_id": "me/it", "private": private})
    run.begin()
    run.finish(outcome.counts, outcome.outputs, outcome.summary)
    table.show_export(run)
    assert (pushed["repo_id"], pushed["private"]) == ("me/it", private)


def test_the_languages_of_the_card_are_those_of_the_recipe(tmp_path):
    paths = [str(tmp_path / name) for name in write_line(tmp_path)]
    config = ReportConfig(run_dir="unused", run_paths=paths, language=["de", "fr"])
    card = model_card(read_runs(config.run_paths), config)
    assert yaml.safe_load(card.split("---\n")[1])["language"] == ["de", "fr"]
