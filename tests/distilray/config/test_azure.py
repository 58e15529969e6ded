import json
import re

import pytest
import yaml

from distilray.config.azure import translate_azure
from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.config.recipe import RecipeError, load_recipe

FIELDS = {
    "task": "fill-mask",
    "test_data": "small.jsonl",
    "mlflow_model": "bert",
    "input_column_names": "input_string",
    "label_column_name": "title",
    "device": "cpu",
}
PARAMS = json.dumps({"metrics": ["perplexities"], "model_id": "models/gpt2", "batch_size": 4, "add_start_token": False})
OURS = {
    "student_dir": "bert",
    "device": "cpu",
    "data": {"path": "small.jsonl", "text_column": "input_string", "answer_column": "title", "scored_masks": "first"},
}
PIPELINE = """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
experiment_name: fill-mask-model-evaluation-subgraph
description: Evaluates a model
compute: azureml:cpu-cluster
settings: {continue_on_step_failure: false}
inputs: {model: bert}
jobs:
  prepare_data_job:
    type: command
    outputs: {test_data: {type: uri_file}}
  pipeline_component_job:
    type: pipeline
    component: azureml://registries/azureml/components/model_evaluation_pipeline/labels/latest
    inputs:
      task: fill-mask
      test_data: ${{parent.jobs.prepare_data_job.outputs.test_data}}
      mlflow_model: ${{parent.inputs.model}}
      input_column_names: [input_string]
      label_column_name: title
      device: cpu
"""


def recipe(tmp_path, values, *overrides):
    file = tmp_path / "recipe.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return load_recipe(str(file), ["run_dir=runs/x", *overrides], EvaluateFillMaskConfig)


def without(*keys):
    return {key: value for key, value in FIELDS.items() if key not in keys}


@pytest.mark.parametrize(
    "values",
    [
        FIELDS,
        {"inputs": FIELDS},
        {"jobs": {"evaluate": {"inputs": FIELDS}}, "type": "pipeline"},
        {"inputs": FIELDS, "type": "command", "version": 1, "code": "src", "command": "python x.py"},
        {"inputs": {**FIELDS, "label_column_name": {"type": "string", "optional": True, "default": "title"}}},
        {
            "inputs": {"data": {"type": "uri_file", "path": "small.jsonl", "description": "masked texts"}},
            "jobs": {"evaluate": {"inputs": {**FIELDS, "test_data": {"path": "${{parent.inputs.data}}"}}}},
        },
        {**FIELDS, "mlflow_model": {"type": "mlflow_model", "path": "bert"}, "test_data": {"path": "small.jsonl"}},
        {**FIELDS, "input_column_names": ["input_string"]},
        without("input_column_names", "label_column_name"),
        {**without("mlflow_model"), "student_dir": "bert"},
        # The machine on which Azure runs a job has no meaning here.
        *[
            {**level(FIELDS | {key: "${{parent.inputs.cluster}}"})}
            for level in (dict, lambda fields: {"inputs": fields}, lambda fields: {"jobs": {"x": {"inputs": fields}}})
            for key in (
                "compute",
                "compute_name",
                "instance_type",
                "compute_instance_type",
                "instance_count",
                "serverless",
            )
        ],
    ],
)
def test_all_notations_of_azures_fields_have_the_same_translation(values):
    assert translate_azure(values) == OURS


def test_a_recipe_without_azures_fields_is_returned_unchanged():
    values = {"shards_dir": "a", "student_dir": "b", "compute": "x"}
    assert translate_azure(values) is values
    assert translate_azure(None) is None


@pytest.mark.parametrize(
    ("params", "causal"),
    [
        (PARAMS, {"model_dir": "models/gpt2", "batch_size": 4, "add_start_token": False}),
        ('{"metrics": ["perplexities"]}', {"model_dir": "gpt2"}),
        ("{}", {"model_dir": "gpt2"}),
        ('{"metrics": []}', None),
    ],
)
def test_the_evaluation_config_names_the_causal_model(tmp_path, params, causal):
    (tmp_path / "config.json").write_text(params)
    assert translate_azure({**FIELDS, "evaluation_config_params": params}).get("causal") == causal
    assert translate_azure({**FIELDS, "evaluation_config": str(tmp_path / "config.json")}).get("causal") == causal


def test_a_pipeline_file_is_a_recipe_once_its_data_is_named(tmp_path):
    config = recipe(tmp_path, PIPELINE, "test_data=small.jsonl", "teacher_dir=big")
    assert (config.student_dir, config.teacher_dir, config.device) == ("bert", "big", "cpu")
    assert config.data.path == "small.jsonl"
    with pytest.raises(RecipeError, match=r"test_data: .* of another job of the pipeline; name the file"):
        recipe(tmp_path, PIPELINE)


SHARDS = {"student_dir": "b", "shards_dir": "s"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**FIELDS, "task": "text-classification"}, "evaluates fill-mask only"),
        ({**FIELDS, "test_data": "azureml:small:1"}, "is stored in Azure"),
        ({**FIELDS, "mlflow_model": {"path": "x", "version": 3}}, "mlflow_model.version: unknown"),
        ({**FIELDS, "mlflow_model": None}, "mlflow_model: a path is needed"),
        ({**FIELDS, "mlflow_model": "${{parent.inputs.model}}"}, "mlflow_model: .*another job"),
        ({**FIELDS, "input_column_names": ["a", "b"]}, "input_column_names: must name one column"),
        ({**FIELDS, "student_dir": "b"}, "mlflow_model: same setting as student_dir"),
        ({**FIELDS, "data": {"path": "b"}}, "test_data: same setting as data"),
        ({**FIELDS, "instance_kind": "large"}, "instance_kind: unknown key"),
        ({**FIELDS, "label_column": "x"}, "label_column: unknown key"),
        ({**FIELDS, "evaluation_config_params": "{"}, "evaluation_config_params: not JSON"),
        ({**FIELDS, "evaluation_config_params": "[]"}, "must be a JSON object, not a list"),
        ({**FIELDS, "evaluation_config_params": '{"metric": []}'}, "_params.metric: unknown; known here: metrics"),
        ({**FIELDS, "evaluation_config_params": '{"metrics": ["bleu"]}'}, "'bleu' is unknown"),
        ({**FIELDS, "evaluation_config_params": "{}", "evaluation_config": "x"}, "keep one of them"),
        ({**FIELDS, "evaluation_config": "no-such.json"}, "cannot read no-such.json"),
        ({**FIELDS, "device": "tpu"}, "device"),
        ({"jobs": {name: {"inputs": dict(FIELDS)} for name in "ab"}}, "more than one job evaluates"),
        ({"task": "fill-mask", "input_column_names": "a", "student_dir": "b"}, "add test_data"),
        # Rules for our own keys.
        ({"student_dir": "b"}, "exactly one source of masks"),
        ({**SHARDS, "data": {"path": "d"}}, "exactly one source of masks"),
        ({**SHARDS, "causal": {"model_dir": "g"}}, "causal: needs texts"),
        ({**SHARDS, "fault_tolerance": {"max_bad_fraction": 0.1}}, "fault_tolerance: has no effect with s"),
        ({**SHARDS, "scaling": {"actors": 2}}, "scaling: has no effect with shards_dir"),
        ({"student_dir": "b", "data": {"path": "d"}, "cache": {"max_gb": 1.0}}, "cache: has no effect with data"),
    ],
)
def test_unsupported_values_are_rejected_by_name_in_one_line(tmp_path, values, message):
    with pytest.raises(RecipeError, match=message) as caught:
        recipe(tmp_path, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("mlflow_model=other", "student_dir", "other"),
        ("student_dir=other", "student_dir", "other"),
        ("test_data=other.jsonl", "data", {**OURS["data"], "path": "other.jsonl"}),
        ("data={path: other.jsonl}", "data", {"path": "other.jsonl"}),
        ("causal=null", "causal", None),
        ("evaluation_config_params='{\"metrics\": []}'", "causal", None),
    ],
)
def test_a_value_at_the_top_level_overrides_that_of_the_pipeline(override, key, value):
    name, _, text = override.partition("=")
    pipeline = {"jobs": {"evaluate": {"inputs": {**FIELDS, "evaluation_config": "absent.json"}}}}
    own = {"causal": None} if name != "causal" and "config" not in name else {}
    assert translate_azure({**pipeline, **own, name: yaml.safe_load(text)}).get(key) == value


def test_a_path_that_does_not_exist_in_the_working_directory_is_resolved_next_to_the_recipe(tmp_path, monkeypatch):
    azure, work = tmp_path / "azure", tmp_path / "work"
    for folder in (azure / "gpt", work / "bert"):
        folder.mkdir(parents=True)
    (azure / "small-test-[MASK].jsonl").write_text("{}")
    (azure / "config.json").write_text('{"metrics": ["perplexities"], "model_id": "gpt"}')
    monkeypatch.chdir(work)
    values = {**FIELDS, "test_data": {"path": "./small-test-[MASK].jsonl"}, "evaluation_config": "config.json"}
    config = recipe(azure, values)
    assert config.data.path == str(azure / "small-test-[MASK].jsonl")
    assert config.causal.model_dir == str(azure / "gpt")
    assert config.student_dir == "bert"
    (work / "gpt").mkdir()
    assert recipe(azure, values).causal.model_dir == "gpt"
    assert recipe(azure, {**values, "test_data": "*.jsonl"}).data.path == str(azure / "*.jsonl")


def test_all_values_to_correct_are_reported_in_one_line(tmp_path):
    file = tmp_path / "recipe.yaml"
    changes = "mlflow_model: ${{parent.inputs.model}}", "mlflow_model: {path: azureml://models/bert}"
    file.write_text(PIPELINE.replace(*changes) + "      evaluation_config: config.json\n      label_columns: title\n")
    (tmp_path / "config.json").write_text('{"metrics": ["perplexities"]}')
    with pytest.raises(RecipeError, match="5 values to correct") as caught:
        load_recipe(str(file), [], EvaluateFillMaskConfig)
    for fault in (
        "test_data: .*of another job",
        "mlflow_model: .*is stored in Azure",
        "model_id: gpt2 is neither",
        "run_dir: missing",
        "label_columns: unknown key",
    ):
        assert re.search(fault, str(caught.value))
    assert "\n" not in str(caught.value)
    file.write_text("task: fill-mask")
    with pytest.raises(RecipeError, match=r"test_data: missing.* mlflow_model: missing.* run_dir: missing"):
        load_recipe(str(file), [], EvaluateFillMaskConfig)


def test_the_shipped_recipe_with_azures_names_is_valid():
    config = load_recipe("jobs/recipes/evaluate_fill_mask/azure.yaml", [], EvaluateFillMaskConfig)
    data = config.data
    assert (data.text_column, data.answer_column, data.scored_masks) == ("input_string", "title", "first")
    assert config.causal is None
