"""The field names of the Azure fill-mask evaluation, translated to ours.

They stand at the top of a recipe, under `inputs:`, or in the job of a pipeline YAML that names the task, as in the
samples of azureml-examples. A value at the top replaces one further down, also if one of them has our name: so
`test_data=FILE` or `causal=null` at the end of a command overrides the YAML.
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

# Keys of a pipeline that mean nothing here.
_ENVELOPE = (
    *("$schema", "type", "name", "experiment_name", "display_name", "description", "tags", "properties"),
    *("settings", "outputs", "identity", "limits"),
    *("version", "is_deterministic", "code", "command", "environment"),  # of a component or a command job
)
# Where Azure runs a job: `compute`, `compute_name`, `instance_type`, `compute_instance_type`, ...
_PLACEMENT = re.compile(r"(default_)?compute(_\w+)?|instance_(type|count)(_\w+)?|serverless|resources|queue_settings")
_FIELDS = (
    "task",
    "test_data",
    "input_column_names",
    "label_column_name",
    "mlflow_model",
    "evaluation_config",
    "evaluation_config_params",
)
# Names of the same thing; one at the top of a recipe replaces all of those further down.
_ALTERNATIVES = (
    ("mlflow_model", "student_dir"),
    ("test_data", "data", "shards_dir"),
    ("evaluation_config", "evaluation_config_params", "causal"),
)
_EVALUATION_CONFIGS = ("evaluation_config", "evaluation_config_params")
_REQUIRED = {"test_data": _ALTERNATIVES[1], "mlflow_model": _ALTERNATIVES[0], "run_dir": ("run_dir",)}
_COLUMNS = {"input_column_names": "input_string", "label_column_name": "title"}  # of test_data, with Azure's defaults
_EVALUATION_KEYS = ("metrics", "model_id", "batch_size", "add_start_token")
_METRIC = "perplexities"
_TASK = "fill-mask"
_MODEL_ID = "gpt2"  # what Azure takes when none is named
_PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}")

V = TypeVar("V")
Values = dict[str, Any]


def translate_azure(values: object, folder: Path | None = None, known: Collection[str] = ()) -> object:
    """Return the recipe in our keys, or as it is if it has none of Azure's.

    Args:
        values: of the recipe.
        folder: of its file. A relative path that is not in the working folder is looked up there, as Azure does.
        known: keys of the config, to report unknown ones beside other faults.

    Raises:
        ValueError: values that are missing or mean nothing here, all in one line, each with its key and the fix.
    """
    if not isinstance(values, dict):
        return values
    faults: dict[str, str] = {}  # the first one of each key
    merged = _lifted(values, faults)
    if not merged.keys() & set(_FIELDS):
        return values
    translation = _Translation(merged, folder, faults)
    missing = _missing(merged) if folder is not None else {}
    translation.attempt("task", lambda: _check_task(merged.pop("task", _TASK)))
    translation.data()
    translation.model()
    translation.causal()
    if missing or faults:
        unknown = [key for key in merged if known and key not in (*known, *_FIELDS)]
        unknown_keys = {key: f"{key}: unknown key; remove it" for key in unknown}
        raise ValueError(_listed([*{**missing, **translation.absent, **unknown_keys, **faults}.values()]))
    return merged


@dataclass(frozen=True)
class _Translation:
    """Replaces Azure's fields by ours, and collects what is wrong.

    Attributes:
        merged: the fields of all levels.
        folder: of the recipe.
        faults: the first one of each key.
        absent: files that are missing, by key. They are reported beside other faults only, since a recipe may be
            checked where its files are not.
    """

    merged: Values
    folder: Path | None
    faults: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)

    def data(self) -> None:
        if "test_data" in self.merged:
            path = self.attempt("test_data", lambda: self.locate("test_data", _path(self.merged, "test_data")))
            text, answer = (self.attempt(key, functools.partial(_column, self.merged, key)) for key in _COLUMNS)
            # Azure's preparation keeps the first answer only, as the label of the whole text.
            data = {"path": path, "text_column": text, "answer_column": answer, "scored_masks": "first"}
            self.put("data", data, "test_data")
        elif columns := [key for key in _COLUMNS if key in self.merged]:
            self.faults["test_data"] = f"{columns[0]}: of no data; add test_data"

    def model(self) -> None:
        if "mlflow_model" in self.merged:
            path = self.attempt("mlflow_model", lambda: self.locate("mlflow_model", _path(self.merged, "mlflow_model")))
            self.put("student_dir", path, "mlflow_model")

    def causal(self) -> None:
        causal = self.attempt("evaluation_config", lambda: _causal(self.merged, self.folder))
        if causal:
            fix = f"{_METRIC} need a causal model: name its folder, or set causal=null"
            causal["model_dir"] = self.locate("model_id", causal["model_dir"], fix)
            self.put("causal", causal, "evaluation_config")

    def attempt(self, key: str, translate: Callable[[], V]) -> V | None:
        try:
            return translate()
        except ValueError as error:
            self.faults.setdefault(key, str(error))
            return None

    def locate(self, key: str, path: str, fix: str = "correct the path") -> str:
        location = _location(path, self.folder)
        if location is None:
            self.absent[key] = f"{key}: {path} is neither in the working folder nor beside the recipe; {fix}"
        return location or path

    def put(self, key: str, value: Any, azure: str) -> None:
        if key in self.merged:
            self.faults.setdefault(azure, f"{azure}: says the same as {key}; keep one of them")
        else:
            self.merged[key] = value


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
    return f"{len(problems)} values to correct: {listed}"


def _check_task(task: object) -> None:
    if task != _TASK:
        raise ValueError(f"task: '{task}'; this job evaluates {_TASK} only")


def _missing(merged: Values) -> dict[str, str]:
    return {
        key: f"{key}: missing; give {key}=... at the end of the command"
        for key, names in _REQUIRED.items()
        if not merged.keys() & set(names)
    }


def _lifted(values: Values, faults: dict[str, str]) -> Values:
    """The fields of all levels at one, the upper ones first."""
    own = {key: value for key, value in values.items() if key not in (*_ENVELOPE, "jobs", "inputs")}
    inputs = values.get("inputs")
    outer: Values = {key: _default(value) for key, value in inputs.items()} if isinstance(inputs, dict) else {}
    jobs = values.get("jobs")
    steps = jobs.values() if isinstance(jobs, dict) else ()
    found = [step["inputs"] for step in steps if isinstance(step, dict) and isinstance(step.get("inputs"), dict)]
    evaluations = [step for step in found if "task" in step or "mlflow_model" in step]
    if len(evaluations) > 1:
        raise ValueError("jobs: more than one evaluates a model; keep one, and run a recipe for each")
    replaced = {name for names in _ALTERNATIVES if own.keys() & set(names) for name in names}
    if own.keys() & {"data", "shards_dir"}:
        replaced.update(_COLUMNS)
    lower = {
        key: value
        for key, value in (evaluations[0] if evaluations else outer).items()
        if key not in (*own, *replaced) and not _PLACEMENT.fullmatch(key)
    }
    above = {**outer, **own}
    own = {key: value for key, value in own.items() if not _PLACEMENT.fullmatch(key)}
    return {**(_resolved(lower, above, faults) if evaluations else lower), **own}


def _resolved(inner: Values, outer: Values, faults: dict[str, str]) -> Values:
    """`${{parent.inputs.NAME}}` as what it names."""
    resolved: Values = {}
    for key, value in inner.items():
        text = value.get("path") if isinstance(value, dict) else value
        named = _PARENT_INPUT.fullmatch(text) if isinstance(text, str) else None
        resolved[key] = value if named is None else outer.get(named[1])
        if named is not None and named[1] not in outer:
            faults[key] = f"{key}: the pipeline has no input '{named[1]}'; add it to inputs, or write the value"
    return resolved


def _default(declared: Any) -> Any:
    """Return the default of an input that a component declares, such as `{type: string, default: title}`."""
    return declared["default"] if isinstance(declared, dict) and "default" in declared else declared


def _column(merged: Values, key: str) -> str:
    value = merged.pop(key, _COLUMNS[key])
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{key}: names one column here (got {value!r}); keep the one with the masks")
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
        raise ValueError(f"{key}: '{value}' is of another job of the pipeline; name the file: {key}=FILE")
    if value.startswith("azureml:"):
        raise ValueError(f"{key}: '{value}' lies in Azure; download it, and name the local folder")
    return value


def _location(path: str, folder: Path | None) -> str | None:
    """Return a path as it is if it exists, the one beside the recipe if that exists, else None.

    Without a folder, paths are not looked up. URIs and names of models are never looked up.
    """
    if folder is None or "://" in path or path.startswith((HUB_PREFIX, SAMPLE_PREFIX)):
        return path
    beside = os.path.normpath(folder / expand_home(path))
    return next((each for each in (path, beside) if _exists(expand_home(each))), None)


def _exists(pattern: str) -> bool:
    # `*` alone is a pattern here: Azure's notebook has a file named `small-test-[MASK].jsonl`.
    return bool(glob(re.sub(r"[\[?]", r"[\g<0>]", pattern)))  # noqa: PTH207 - the pattern may be absolute


def _causal(merged: Values, folder: Path | None) -> Values | None:
    """The causal metric, when the configuration asks for it."""
    sources = {key: merged.pop(key) for key in _EVALUATION_CONFIGS if merged.get(key) is not None}
    if len(sources) == 2:
        raise ValueError("evaluation_config_params: another one than evaluation_config; keep one of them")
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
            raise ValueError(f"{key}: {path} cannot be read ({error}); correct the path") from None
    try:
        settings = json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{key}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{key}: holds a {type(settings).__name__} where a JSON object is needed")
    return settings
