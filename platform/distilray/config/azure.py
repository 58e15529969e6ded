"""Translation of Azure's field names for fill-mask evaluation into the keys of our recipes.

The fields may be at the top level of a recipe, under `inputs:`, or in the job of a pipeline YAML that names the task,
as in the samples of azureml-examples. A value at the top level overrides one at a lower level, even if one of them uses
our name for it, so `test_data=FILE` or `causal=null` on the command line overrides the YAML.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, expand_home

# Keys of a pipeline that are ignored.
_IGNORED = (
    *("$schema", "type", "name", "experiment_name", "display_name", "description", "tags", "properties"),
    *("settings", "outputs", "identity", "limits"),
    *("version", "is_deterministic", "code", "command", "environment"),  # of a component or a command job
)
# Keys for the machine that Azure runs a job on, which are ignored too (`compute`, `instance_type`, ...).
_COMPUTE = re.compile(r"(default_)?compute(_\w+)?|instance_(type|count)(_\w+)?|serverless|resources|queue_settings")
_FIELDS = (
    "task",
    "test_data",
    "input_column_names",
    "label_column_name",
    "mlflow_model",
    "evaluation_config",
    "evaluation_config_params",
)
# Groups of keys for the same setting. A key at the top level overrides its whole group at lower levels.
_ALTERNATIVES = (
    ("mlflow_model", "student_dir"),
    ("test_data", "data", "shards_dir"),
    ("evaluation_config", "evaluation_config_params", "causal"),
)
_EVALUATION_CONFIGS = ("evaluation_config", "evaluation_config_params")
_REQUIRED = {"test_data": _ALTERNATIVES[1], "mlflow_model": _ALTERNATIVES[0], "run_dir": ("run_dir",)}
_COLUMNS = {"input_column_names": "input_string", "label_column_name": "title"}  # with Azure's defaults
_EVALUATION_KEYS = ("metrics", "model_id", "batch_size", "add_start_token")
_METRIC = "perplexities"
_TASK = "fill-mask"
_MODEL_ID = "gpt2"  # Azure's default
_PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}")

V = TypeVar("V")
Values = dict[str, Any]


def translate_azure(values: object, folder: Path | None = None, known: Collection[str] = ()) -> object:
    """Return a recipe with Azure's fields translated to our keys; a recipe without any is returned unchanged.

    Args:
        values: the recipe.
        folder: folder of the recipe file. A relative path that does not exist in the working directory is resolved
            against it, as Azure does.
        known: keys of the config, used to report unknown keys together with other problems.

    Raises:
        ValueError: missing or unsupported values, all in one line, each with its key and the fix.
    """
    if not isinstance(values, dict):
        return values
    problems: dict[str, str] = {}  # first problem of each key
    merged = _flatten(values, problems)
    if not merged.keys() & set(_FIELDS):
        return values
    translation = _Translation(merged, folder, problems)
    missing_fields = _missing_fields(merged) if folder is not None else {}
    translation.attempt("task", lambda: _check_task(merged.pop("task", _TASK)))
    translation.translate_data()
    translation.translate_model()
    translation.translate_causal()
    if missing_fields or problems:
        unknown = [key for key in merged if known and key not in (*known, *_FIELDS)]
        unknown_keys = {key: f"{key}: unknown key; remove it" for key in unknown}
        raise ValueError(
            _numbered([*{**missing_fields, **translation.missing_files, **unknown_keys, **problems}.values()])
        )
    return merged


@dataclass(frozen=True)
class _Translation:
    """Replaces Azure's fields by ours and collects problems.

    Attributes:
        merged: fields of all levels.
        folder: folder of the recipe.
        problems: the first problem for each key.
        missing_files: problems by key. They are reported only together with other problems, because a recipe may be
            checked on a machine without its files.
    """

    merged: Values
    folder: Path | None
    problems: dict[str, str]
    missing_files: dict[str, str] = field(default_factory=dict)

    def translate_data(self) -> None:
        if "test_data" in self.merged:
            path = self.attempt("test_data", lambda: self.locate("test_data", _path(self.merged, "test_data")))
            text, answer = (self.attempt(key, functools.partial(_column, self.merged, key)) for key in _COLUMNS)
            # Azure's data preparation keeps only the first answer as the label of the whole text.
            data = {"path": path, "text_column": text, "answer_column": answer, "scored_masks": "first"}
            self.put("data", data, "test_data")
        elif columns := [key for key in _COLUMNS if key in self.merged]:
            self.problems["test_data"] = f"{columns[0]}: set without test_data; add test_data"

    def translate_model(self) -> None:
        if "mlflow_model" in self.merged:
            path = self.attempt("mlflow_model", lambda: self.locate("mlflow_model", _path(self.merged, "mlflow_model")))
            self.put("student_dir", path, "mlflow_model")

    def translate_causal(self) -> None:
        causal = self.attempt("evaluation_config", lambda: _causal(self.merged, self.folder))
        if causal:
            fix = f"{_METRIC} need a causal model: name its folder, or set causal=null"
            causal["model_dir"] = self.locate("model_id", causal["model_dir"], fix)
            self.put("causal", causal, "evaluation_config")

    def attempt(self, key: str, translate: Callable[[], V]) -> V | None:
        try:
            return translate()
        except ValueError as error:
            self.problems.setdefault(key, str(error))
            return None

    def locate(self, key: str, path: str, fix: str = "correct the path") -> str:
        location = _location(path, self.folder)
        if location is None:
            self.missing_files[key] = f"{key}: {path} is neither in the working directory nor next to the recipe; {fix}"
        return location or path

    def put(self, key: str, value: Any, azure_key: str) -> None:
        if key in self.merged:
            self.problems.setdefault(azure_key, f"{azure_key}: same setting as {key}; keep one of them")
        else:
            self.merged[key] = value


def _numbered(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
    return f"{len(problems)} values to correct: {listed}"


def _check_task(task: object) -> None:
    if task != _TASK:
        raise ValueError(f"task: '{task}'; this job evaluates {_TASK} only")


def _missing_fields(merged: Values) -> dict[str, str]:
    return {
        key: f"{key}: missing; add {key}=... to the command"
        for key, names in _REQUIRED.items()
        if not merged.keys() & set(names)
    }


def _flatten(values: Values, problems: dict[str, str]) -> Values:
    """Merge the fields of all levels into one mapping. Upper levels override lower ones."""
    top = {key: value for key, value in values.items() if key not in (*_IGNORED, "jobs", "inputs")}
    inputs = values.get("inputs")
    outer: Values = {key: _default(value) for key, value in inputs.items()} if isinstance(inputs, dict) else {}
    jobs = values.get("jobs")
    steps = jobs.values() if isinstance(jobs, dict) else ()
    step_inputs = [step["inputs"] for step in steps if isinstance(step, dict) and isinstance(step.get("inputs"), dict)]
    evaluations = [fields for fields in step_inputs if "task" in fields or "mlflow_model" in fields]
    if len(evaluations) > 1:
        raise ValueError(
            "jobs: more than one job evaluates a model; keep one, and write a recipe for each of the others"
        )
    overridden = {name for names in _ALTERNATIVES if top.keys() & set(names) for name in names}
    if top.keys() & {"data", "shards_dir"}:
        overridden.update(_COLUMNS)
    lower = {
        key: value
        for key, value in (evaluations[0] if evaluations else outer).items()
        if key not in (*top, *overridden) and not _COMPUTE.fullmatch(key)
    }
    above = {**outer, **top}
    top = {key: value for key, value in top.items() if not _COMPUTE.fullmatch(key)}
    return {**(_resolve_references(lower, above, problems) if evaluations else lower), **top}


def _resolve_references(inner: Values, outer: Values, problems: dict[str, str]) -> Values:
    """Replace each `${{parent.inputs.NAME}}` by the value of that input."""
    resolved: Values = {}
    for key, value in inner.items():
        text = value.get("path") if isinstance(value, dict) else value
        reference = _PARENT_INPUT.fullmatch(text) if isinstance(text, str) else None
        resolved[key] = value if reference is None else outer.get(reference[1])
        if reference is not None and reference[1] not in outer:
            problems[key] = f"{key}: the pipeline has no input '{reference[1]}'; add it to inputs, or write the value"
    return resolved


def _default(declared: Any) -> Any:
    """Return the default of an input declared by a component, such as `{type: string, default: title}`."""
    return declared["default"] if isinstance(declared, dict) and "default" in declared else declared


def _column(merged: Values, key: str) -> str:
    value = merged.pop(key, _COLUMNS[key])
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{key}: must name one column (got {value!r}); name the one with the masks")
    return names[0]


def _path(merged: Values, key: str) -> str:
    value = merged.pop(key)
    if isinstance(value, dict):
        unknown = sorted(value.keys() - {"type", "path", "mode", "description", "optional"})
        if unknown:
            raise ValueError(f"{key}.{unknown[0]}: unknown; known here: mode, path, type")
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: a path is needed; write {key}: FOLDER or {key}: {{path: FOLDER}}")
    if "${{" in value:
        raise ValueError(f"{key}: '{value}' is an output of another job of the pipeline; name the file: {key}=FILE")
    if value.startswith("azureml:"):
        raise ValueError(f"{key}: '{value}' is stored in Azure; download it and name the local folder")
    return value


def _location(path: str, folder: Path | None) -> str | None:
    """Return a path that exists in the working directory, else the path in `folder` if it exists, else None.

    URIs and model names are returned unchanged, and so is every path if `folder` is None.
    """
    if folder is None or "://" in path or path.startswith((HUB_PREFIX, SAMPLE_PREFIX)):
        return path
    next_to_recipe = os.path.normpath(folder / expand_home(path))
    return next((candidate for candidate in (path, next_to_recipe) if _exists(expand_home(candidate))), None)


def _exists(pattern: str) -> bool:
    # Only `*` is special: Azure's notebook has a file named `small-test-[MASK].jsonl`.
    return bool(glob(re.sub(r"[\[?]", r"[\g<0>]", pattern)))  # noqa: PTH207 - the pattern may be absolute


def _causal(merged: Values, folder: Path | None) -> Values | None:
    """Return the section `causal` if the evaluation config requests the metric."""
    sources = {key: merged.pop(key) for key in _EVALUATION_CONFIGS if merged.get(key) is not None}
    if len(sources) == 2:
        raise ValueError("evaluation_config_params: evaluation_config is set too; keep one of them")
    if not sources:
        return None
    ((key, value),) = sources.items()
    settings = _evaluation_settings(key, value, folder)
    unknown = sorted(settings.keys() - set(_EVALUATION_KEYS))
    if unknown:
        raise ValueError(f"{key}.{unknown[0]}: unknown; known here: {', '.join(_EVALUATION_KEYS)}")
    metrics = settings.pop("metrics", [_METRIC])
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        if metric != _METRIC:
            raise ValueError(f"{key}.metrics: '{metric}' is unknown; Azure's fill-mask has {_METRIC} only")
    return {"model_dir": settings.pop("model_id", _MODEL_ID), **settings} if metrics else None


def _evaluation_settings(key: str, value: Any, folder: Path | None) -> Values:
    if isinstance(value, Mapping) and key == "evaluation_config_params":
        return dict(value)
    if key == "evaluation_config":
        path = _path({key: value}, key)
        try:
            value = Path(expand_home(_location(path, folder) or path)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{key}: cannot read {path} ({error}); correct the path") from None
    try:
        settings = json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{key}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{key}: must be a JSON object, not a {type(settings).__name__}")
    return settings
