"""Recipe values of evaluation and export reach the models and the files."""

import json
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
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
    (folder / "data.txt").write_text((folder / "data.jsonl").read_text())
    (folder / "text").write_text("\n".join(row["texts"].replace("<mask>", "rome") for row in rows_of(12)))
    return folder


@pytest.fixture
def shapes(monkeypatch):
    """(rows, tokens) of each forward pass of the masked language model."""
    found: list[tuple[int, int]] = []
    forward = Embeddings.forward

    def noted(self: Any, input_ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        found.append(tuple(input_ids.shape))
        return forward(self, input_ids, *rest, **more)

    monkeypatch.setattr(Embeddings, "forward", noted)
    return found


@pytest.fixture
def fill(work, tmp_path, monkeypatch):
    """Run folder of a fill-mask evaluation of the texts."""
    score_in_process(monkeypatch)

    def run(**changes: Any) -> Any:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        data = {"path": str(work / "data.jsonl"), **changes.pop("data", {})}
        values = {"run_dir": str(folder), "student_dir": str(work / "model"), "data": data, "precision": "fp32"}
        config = EvaluateFillMaskConfig.model_validate({"latency_examples": 0, **values, **changes})
        evaluate_fill_mask(config, RunFolder("evaluate_fill_mask", config, {}))
        return folder

    return run


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


@pytest.mark.parametrize("rows", [2, 5])
def test_a_batch_has_at_most_the_rows_of_the_recipe(fill, shapes, rows):
    fill(batch_size=rows, data={"left_to_right": False})
    assert max(shape[0] for shape in shapes) == rows


@pytest.mark.parametrize("tokens", [48, 200])
def test_a_batch_has_at_most_so_many_tokens(fill, shapes, monkeypatch, tokens):
    monkeypatch.setattr(chunk_scorer, "MAX_BATCH_TOKENS", tokens)
    fill(batch_size=32, data={"left_to_right": False})
    sizes = [rows * (width - 7) for rows, width in shapes if rows > 1]  # widths are rounded up to multiples of 8
    assert all(size <= tokens for size in sizes)
    assert (max(sizes, default=0) > 48) is (tokens > 48)


def test_answers_are_scored_from_left_to_right_if_the_recipe_says_so(fill, shapes):
    fill(data={"left_to_right": False})
    fewer = len(shapes)
    shapes.clear()
    fill(data={"left_to_right": True})
    assert len(shapes) > fewer


def test_only_the_first_rows_are_read_if_the_recipe_says_so(fill):
    assert scores(fill(max_examples=7))["rows"] == 7


def test_a_text_file_is_read_in_the_format_of_the_recipe(fill, work):
    one, other = (
        fill(data={"path": str(work / path), "format": kind})
        for path, kind in (("data.txt", "jsonl"), ("data.jsonl", "auto"))
    )
    assert scores(one)["masks"] == scores(other)["masks"]


def test_an_interval_of_a_lower_level_is_narrower(fill):
    widths = {}
    for level in (0.5, 0.95):
        found = scores(fill(bootstrap={"level": level, "resamples": 200}))["intervals"]
        low, high = found["student"]["hit@10"] if "student" in found else found["scores"]["student"]["hit@10"]
        widths[level] = high - low
    assert 0 < widths[0.5] < widths[0.95]


def perplexities(folder):
    (file,) = (folder / "predictions").iterdir()
    return pq.read_table(file).column("student_perplexity").to_pylist()


def test_the_start_token_of_the_causal_model_is_that_of_the_recipe(fill, work):
    with_start, without = (
        perplexities(fill(causal={"model_dir": str(work / "causal"), "add_start_token": start}))
        for start in (True, False)
    )
    assert with_start != without


@pytest.mark.parametrize("rows", [3, 7])
def test_a_batch_of_the_causal_model_has_the_rows_of_the_recipe(fill, work, monkeypatch, rows):
    found = []
    forward = GPT2LMHeadModel.forward

    def noted(self: Any, input_ids: torch.Tensor, **more: Any) -> Any:
        found.append(len(input_ids))
        return forward(self, input_ids, **more)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", noted)
    fill(causal={"model_dir": str(work / "causal"), "batch_size": rows})
    assert max(found) == rows


def bias(work, run_dir, **changes):
    values = {"run_dir": str(run_dir), "models": {"one": str(work / "model")}, **changes}
    config = EvaluateBiasConfig.model_validate(values)
    evaluate_bias(config, RunFolder("evaluate_bias", config, {}))
    return json.loads((run_dir / "scores.json").read_text())


def test_a_probe_has_as_many_answers_as_the_recipe_says(work, tmp_path):
    for count in (3, 6):
        probes = bias(work, tmp_path / str(count), top_k=count)["probes"]
        assert {len(each["answers"]["one"]) for each in [*probes["card"], *probes["table"]]} == {count}


def test_a_batch_of_probes_has_at_most_the_rows_of_the_recipe(work, tmp_path, shapes):
    bias(work, tmp_path, batch_size=3)
    assert max(shape[0] for shape in shapes) == 3


def test_the_efficiency_is_measured_with_the_batch_the_length_and_the_texts_of_the_recipe(work, tmp_path, shapes):
    values = {"run_dir": str(tmp_path), "models": [{"name": "one", "model_dir": str(work / "model")}]}
    limits = {"batch_size": 4, "max_length": 6, "max_texts": 9, "rounds": 1, "threads": 1}
    config = MeasureEfficiencyConfig.model_validate({**values, "text_path": str(work / "text"), **limits})
    measure_efficiency(config, RunFolder("measure_efficiency", config, {}))
    assert json.loads((tmp_path / "efficiency.json").read_text())["texts"] == 9
    assert max(shape[1] for shape in shapes) == 6
    assert max(shape[0] for shape in shapes) == 4
    assert sum(shape[0] == 1 for shape in shapes) >= 9


def export(work, run_dir, **changes):
    values = {"run_dir": str(run_dir), "model_dir": str(work / "model"), "text_path": str(work / "text")}
    gate = {"min_agreement": 0.0, "max_perplexity_change": 100.0}
    config = ExportModelConfig.model_validate({**values, "variants": ["bf16"], "gate": gate, **changes})
    run = RunFolder("export_model", config, {})
    return config, run, variants.export_model(config, run)


@pytest.mark.parametrize(("per_channel", "reduce_range"), [(True, False), (False, True)])
def test_the_settings_of_int8_reach_the_quantization(work, tmp_path, monkeypatch, per_channel, reduce_range):
    given = {}

    def quantized(graph: bytes, **settings: bool) -> bytes:
        given.update(settings)
        raise ReachedError

    monkeypatch.setattr(variants, "onnx_graph", lambda model: b"")
    monkeypatch.setattr(variants, "write_onnx_folder", lambda *_: None)
    monkeypatch.setattr(variants, "_parity", lambda *_: [])
    monkeypatch.setattr(variants, "int8_graph", quantized)
    settings = {"per_channel": per_channel, "reduce_range": reduce_range}
    with pytest.raises(ReachedError):
        export(work, tmp_path, variants=["onnx-int8"], int8=settings)
    assert given == settings


def test_a_lossy_format_is_compared_in_batches_of_the_recipe(work, tmp_path, shapes):
    export(work, tmp_path, batch_size=3)
    assert max(shape[0] for shape in shapes) == 3


@pytest.mark.parametrize("limit", [1e-9, 1e-4])
def test_a_graph_may_differ_by_the_limit_of_the_recipe(work, tmp_path, monkeypatch, limit):
    case = SimpleNamespace(graph="onnx", batch=1, length=2, masks=1, max_difference=1e-6)
    build = variants._build
    monkeypatch.setattr(variants, "_build", lambda *given: [*build(*given), case])
    monkeypatch.setattr(variants, "asdict", lambda value: dict(vars(value)))
    if limit < 1e-6:
        with pytest.raises(DataQualityError, match="nothing is published"):
            export(work, tmp_path, max_logit_difference=limit)
    else:
        assert export(work, tmp_path, max_logit_difference=limit)[2].outputs


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_is_private_if_the_recipe_says_so(work, tmp_path, monkeypatch, private):
    pushed = {}
    monkeypatch.setattr(variants, "check_push", lambda repo_id: None)
    monkeypatch.setattr(table, "push", lambda files, **settings: pushed.update(settings) or "https://hub.example/me/it")
    config, run, outcome = export(work, tmp_path, push={"repo_id": "me/it", "private": private})
    run.begin()
    run.finish(outcome.counts, outcome.outputs, outcome.summary)
    table.show_export(run)
    assert (pushed["repo_id"], pushed["private"]) == (config.push.repo_id, private)


def test_the_languages_of_the_recipe_are_those_of_the_card(tmp_path):
    hashes = write_line(tmp_path)
    paths = [str(tmp_path / name) for name in hashes]
    config = ReportConfig(run_dir="unused", run_paths=paths, language=["de", "fr"])
    card = model_card(read_runs(config.run_paths), config)
    assert yaml.safe_load(card.split("---\n")[1])["language"] == ["de", "fr"]
