import json
import re
from pathlib import Path

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
settings:
  continue_on_step_failure: false
inputs:
  model: bert
jobs:
  prepare_data_job:
    type: command
    outputs:
      test_data: {type: uri_file}
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
        {
            **FIELDS,
            "mlflow_model": {"type": "mlflow_model", "path": "bert"},
            "test_data": {"type": "uri_file", "path": "small.jsonl"},
        },
        {**FIELDS, "input_column_names": ["input_string"]},
        {key: value for key, value in FIELDS.items() if "column" not in key},
        {**{key: value for key, value in FIELDS.items() if key != "mlflow_model"}, "student_dir": "bert"},
    ],
)
def test_every_way_to_write_azures_fields_means_the_same_in_ours(values):
    assert translate_azure(values) == OURS


def test_a_recipe_without_azures_fields_is_left_alone():
    values = {"shards_dir": "a", "student_dir": "b", "compute": "x"}
    assert translate_azure(values) is values
    assert translate_azure(None) is None


@pytest.mark.parametrize("key", ["evaluation_config", "evaluation_config_params"])
def test_the_evaluation_config_names_the_causal_model(tmp_path, key):
    (tmp_path / "config.json").write_text(PARAMS)
    value = PARAMS if key.endswith("params") else str(tmp_path / "config.json")
    found = translate_azure({**FIELDS, key: value})
    assert found["causal"] == {"model_dir": "models/gpt2", "batch_size": 4, "add_start_token": False}


def test_the_causal_metric_is_as_azure_has_it_when_only_the_metric_is_named():
    found = translate_azure({**FIELDS, "evaluation_config_params": '{"metrics": ["perplexities"]}'})
    assert found["causal"] == {"model_dir": "gpt2"}
    assert "causal" not in translate_azure({**FIELDS, "evaluation_config_params": '{"metrics": []}'})


def test_a_whole_pipeline_file_is_a_recipe_once_its_data_is_named(tmp_path):
    found = recipe(tmp_path, PIPELINE, "test_data=small.jsonl", "teacher_dir=big")
    assert (found.student_dir, found.teacher_dir, found.device) == ("bert", "big", "cpu")
    assert found.data.path == "small.jsonl"
    with pytest.raises(RecipeError, match=r"test_data: .* of another job of the pipeline; name the file"):
        recipe(tmp_path, PIPELINE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "text-classification"}, "evaluates fill-mask only"),
        ({"test_data": "azureml:small:1"}, "is stored in Azure"),
        ({"mlflow_model": {"path": "x", "version": 3}}, "mlflow_model.version: unknown"),
        ({"mlflow_model": None}, "mlflow_model: a path is needed"),
        ({"mlflow_model": "${{parent.inputs.model}}"}, "mlflow_model: .*another job"),
        ({"input_column_names": ["a", "b"]}, "input_column_names: must name one column"),
        ({"student_dir": "b"}, "mlflow_model: same setting as student_dir"),
        ({"data": {"path": "b"}}, "test_data: same setting as data"),
        ({"instance_kind": "large"}, "instance_kind: unknown key"),
        ({"label_column": "x"}, "label_column: unknown key"),
        ({"evaluation_config_params": "{"}, "evaluation_config_params: not JSON"),
        ({"evaluation_config_params": "[]"}, "must be a JSON object, not a list"),
        (
            {"evaluation_config_params": '{"metric": []}'},
            "evaluation_config_params.metric: unknown; known here: metrics",
        ),
        ({"evaluation_config_params": '{"metrics": ["bleu"]}'}, "'bleu' is unknown"),
        ({"evaluation_config_params": "{}", "evaluation_config": "x"}, "keep one of them"),
        ({"evaluation_config": "no-such.json"}, "cannot read no-such.json"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_unsupported_values_are_rejected_by_name_in_one_line(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message) as caught:
        recipe(tmp_path, {**FIELDS, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["compute", "compute_name", "instance_type", "compute_instance_type", "instance_count", "serverless"]
)
@pytest.mark.parametrize("level", ["top", "inputs", "job"])
def test_where_azure_runs_means_nothing_here(key, level):
    fields = {**FIELDS, key: "${{parent.inputs.cluster}}"}
    levels = {"top": fields, "inputs": {"inputs": fields}, "job": {"jobs": {"evaluate": {"inputs": fields}}}}
    assert translate_azure(levels[level]) == OURS


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
def test_a_value_at_the_top_replaces_that_of_the_pipeline(override, key, value):
    name, _, text = override.partition("=")
    pipeline = {"jobs": {"evaluate": {"inputs": {**FIELDS, "evaluation_config": "absent.json"}}}}
    own = {"causal": None} if name != "causal" and "config" not in name else {}
    assert translate_azure({**pipeline, **own, name: yaml.safe_load(text)}).get(key) == value


def test_paths_of_the_yaml_are_looked_up_beside_it_when_they_are_not_in_the_working_folder(tmp_path, monkeypatch):
    config = tmp_path / "azure" / "small-test-[MASK].jsonl", tmp_path / "azure" / "config.json"
    for file, text in zip(config, ("{}", '{"metrics": ["perplexities"], "model_id": "gpt"}'), strict=True):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "azure" / "gpt").mkdir()
    (tmp_path / "work" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    values = {**FIELDS, "test_data": {"path": "./small-test-[MASK].jsonl"}, "evaluation_config": "config.json"}
    loaded = recipe(tmp_path / "azure", values)
    assert (loaded.data.path, loaded.causal.model_dir) == (str(config[0]), str(tmp_path / "azure" / "gpt"))
    assert loaded.student_dir == "bert"
    (tmp_path / "work" / "gpt").mkdir()
    assert recipe(tmp_path / "azure", values).causal.model_dir == "gpt"
    assert recipe(tmp_path / "azure", {**values, "test_data": "*.jsonl"}).data.path == str(tmp_path / "azure/*.jsonl")


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


def test_columns_without_data_and_two_evaluations_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="add test_data"):
        recipe(tmp_path, {"task": "fill-mask", "input_column_names": "a", "student_dir": "b"})
    with pytest.raises(ValueError, match="more than one job evaluates"):
        translate_azure({"jobs": {name: {"inputs": FIELDS} for name in "ab"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student_dir": "b"}, "exactly one source of masks"),
        ({"student_dir": "b", "shards_dir": "s", "data": {"path": "d"}}, "exactly one source of masks"),
        ({"student_dir": "b", "shards_dir": "s", "causal": {"model_dir": "g"}}, "causal: needs texts"),
        (
            {"student_dir": "b", "shards_dir": "s", "fault_tolerance": {"max_bad_fraction": 0.1}},
            "fault_tolerance: has no effect with s",
        ),
        ({"student_dir": "b", "shards_dir": "s", "scaling": {"actors": 2}}, "scaling: has no effect with shards_dir"),
        ({"student_dir": "b", "data": {"path": "d"}, "cache": {"max_gb": 1.0}}, "cache: has no effect with data"),
    ],
)
def test_a_recipe_names_one_source_of_masks_and_only_what_it_uses(tmp_path, values, message):
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, values)


def test_the_shipped_recipe_with_azures_names_is_read_as_ours():
    found = load_recipe(str(Path("jobs/recipes/evaluate_fill_mask/azure.yaml")), [], EvaluateFillMaskConfig)
    assert (found.data.text_column, found.data.answer_column, found.data.scored_masks) == (
        "input_string",
        "title",
        "first",
    )
    assert found.causal is None
