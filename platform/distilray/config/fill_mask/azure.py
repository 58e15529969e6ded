"""The field names of the Azure fill-mask evaluation, translated to ours.

They stand at the top of a recipe, under `inputs:`, or in the job of a pipeline YAML that names the task, as in the
samples of azureml-examples. Our own keys may stand beside them, and win: `test_data=FILE` at the end of a command is
more than what the YAML says.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilray.config.paths import expand_home

# What the pipeline YAML says of Azure's own scheduling; it means nothing here.
_ENVELOPE = ("$schema", "type", "name", "experiment_name", "display_name", "description", "compute", "settings", "tags")
_FIELDS = (
    "task",
    "test_data",
    "input_column_names",
    "label_column_name",
    "mlflow_model",
    "evaluation_config",
    "evaluation_config_params",
)
_EVALUATION_KEYS = ("metrics", "model_id", "batch_size", "add_start_token")
_METRIC = "perplexities"
_MODEL_ID = "gpt2"  # what Azure takes when none is named
_PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}")

Values = dict[str, Any]


def translate_azure(values: object) -> object:
    """The recipe in our keys; it comes back as it is when it has none of Azure's.

    Raises:
        ValueError: a value that means nothing here, with the key and the fix.
    """
    if not isinstance(values, dict):
        return values
    given = _lifted(values)
    if not given.keys() & set(_FIELDS):
        return values
    task = given.pop("task", "fill-mask")
    if task != "fill-mask":
        raise ValueError(f"task: '{task}'; this job evaluates fill-mask only")
    data = _data(given)
    if data:
        _put(given, "data", data, "test_data")
    if "mlflow_model" in given:
        _put(given, "student_dir", _path(given, "mlflow_model"), "mlflow_model")
    causal = _causal(given)
    if causal:
        _put(given, "causal", causal, "evaluation_config")
    return given


def _lifted(values: Values) -> Values:
    """The fields of all levels at one, the upper ones first."""
    own = {key: value for key, value in values.items() if key not in (*_ENVELOPE, "jobs", "inputs")}
    inputs = values.get("inputs")
    outer: Values = dict(inputs) if isinstance(inputs, dict) else {}
    jobs = values.get("jobs")
    steps = jobs.values() if isinstance(jobs, dict) else ()
    found = [step["inputs"] for step in steps if isinstance(step, dict) and isinstance(step.get("inputs"), dict)]
    evaluations = [step for step in found if "task" in step or "mlflow_model" in step]
    if len(evaluations) > 1:
        raise ValueError("jobs: more than one evaluates a model; keep one, and run a recipe for each")
    inner: Values = dict(evaluations[0]) if evaluations else {}
    return {**(_resolved(inner, {**outer, **own}) if inner else outer), **own}


def _resolved(inner: Values, outer: Values) -> Values:
    """`${{parent.inputs.NAME}}` as what it names."""

    def value_of(key: str, value: Any) -> Any:
        named = _PARENT_INPUT.fullmatch(value) if isinstance(value, str) else None
        if named is None:
            return value
        if named[1] not in outer:
            raise ValueError(f"{key}: the pipeline has no input '{named[1]}'; add it to inputs, or write the value")
        return outer[named[1]]

    return {key: value_of(key, value) for key, value in inner.items()}


def _put(given: Values, key: str, value: Any, azure: str) -> None:
    if key in given:
        raise ValueError(f"{azure}: says the same as {key}; keep one of them")
    given[key] = value


def _data(given: Values) -> Values:
    if "test_data" not in given:
        for key in ("input_column_names", "label_column_name"):
            if key in given:
                raise ValueError(f"{key}: of no data; add test_data")
        return {}
    # Azure's preparation keeps the first answer only, as the label of the whole text.
    found: Values = {"path": _path(given, "test_data"), "scored": "first"}
    found["text_column"] = _column(given, "input_column_names", "input_string")
    found["answer_column"] = _column(given, "label_column_name", "title")
    return found


def _column(given: Values, key: str, default: str) -> str:
    value = given.pop(key, default)
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{key}: names one column here (got {value!r}); keep the one with the masks")
    return names[0]


def _path(given: Values, key: str) -> str:
    value = given.pop(key)
    if isinstance(value, dict):
        unknown = sorted(value.keys() - {"type", "path", "mode"})
        if unknown:
            raise ValueError(f"{key}.{unknown[0]}: unknown; known here: mode, path, type")
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: a path is needed; write {key}: FOLDER or {key}: {{path: FOLDER}}")
    if "${{" in value:
        raise ValueError(f"{key}: '{value}' is of another job of the pipeline; name the file: {key}=FILE")
    if value.startswith("azureml:"):
        raise ValueError(f"{key}: '{value}' lies in Azure; download it, and name the local folder")
    return value


def _causal(given: Values) -> Values | None:
    """The causal metric, when the configuration asks for it."""
    sources = [key for key in ("evaluation_config", "evaluation_config_params") if given.get(key) is not None]
    if len(sources) == 2:
        raise ValueError("evaluation_config_params: given beside evaluation_config; keep one of them")
    settings = _evaluation_settings(given, sources[0]) if sources else {"metrics": []}
    for key in ("evaluation_config", "evaluation_config_params"):
        given.pop(key, None)
    unknown = sorted(settings.keys() - set(_EVALUATION_KEYS))
    if unknown:
        raise ValueError(f"{sources[0]}.{unknown[0]}: unknown; known here: {', '.join(_EVALUATION_KEYS)}")
    metrics = settings.pop("metrics", [_METRIC])
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        if metric != _METRIC:
            raise ValueError(f"{sources[0]}.metrics: '{metric}' is unknown; Azure's fill-mask has {_METRIC} only")
    if not metrics:
        return None
    return {"model_dir": settings.pop("model_id", _MODEL_ID), **settings}


def _evaluation_settings(given: Values, key: str) -> Values:
    value = given[key]
    if isinstance(value, Mapping) and key == "evaluation_config_params":
        return dict(value)
    if key == "evaluation_config":
        path = _path(given, key)
        try:
            value = Path(expand_home(path)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{key}: {path} cannot be read ({error}); correct the path") from None
    try:
        found = json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{key}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{key}: holds a {type(found).__name__} where a JSON object is needed")
    return found
