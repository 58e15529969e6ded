"""Recipes: YAML plus `a.b=value` overrides, parsed into a typed config or reported as a one-line error."""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.events import AliasEvent

from distilray.config.base import KEEP_TILDE, RECIPE_FOLDER
from distilray.config.paths import expand_home
from distilray.errors import InputError

C = TypeVar("C", bound=BaseModel)

MAX_RECIPE_BYTES = 1_000_000
# New names of renamed keys and stages, by old name. The error for an old name states the new one.
RENAMED: Mapping[str, str] = {
    "also": "extra",
    "build_follows": "build_next_sentence_task",
    "disturbance": "slowdowns",
    "dtype": "precision",
    "faults": "fault_tolerance",
    "fill_absent": "fill_missing",
    "has_notice": "preemption_notice",
    "initialisation": "initialization",
    "intervals": "bootstrap",
    "licence": "license",
    "max_more_models": "max_loaded_extra_models",
    "measured_in": "measured_run_dir",
    "more_models": "extra_models",
    "most_machines": "max_machines",
    "other_rows": "allow_other_row_counts",
    "part_mb": "chunk_mb",
    "part_rows": "chunk_rows",
    "preemption_every_steps": "poll_preemption_every_steps",
    "reductions": "reduction",
    "rhythm": "intervals",
    "scored": "scored_masks",
    "single_segment": "single_sentence_documents",
    "stations": "stages",
}

# PyYAML's own error, and those that its constructors let through for invalid values such as month 13 or `!!int x`.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class RecipeError(InputError):
    """A recipe that cannot be used. The message names the file, the key and the fix."""


class _StrictLoader(yaml.SafeLoader):
    """`SafeLoader` that rejects duplicate keys and aliases. With aliases, a small file could expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"line {mark.line + 1}: aliases are not allowed; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key must be plain text")
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: duplicate key '{key.value}'")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        RecipeError: the file is missing, too large, not valid YAML, or not a mapping.
    """
    file = Path(expand_home(path))
    if not file.is_file():
        raise RecipeError(
            f"{path}: no such recipe file; the recipes of this repository are in jobs/recipes/ and jobs/pipelines/"
        )
    if file.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_RECIPE_BYTES:,} bytes; a recipe must be smaller")
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except _YAML_ERRORS as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: contains a {type(values).__name__}; write 'key: value' lines")
    return values


def load_recipe(path: str, overrides: Sequence[str], config_class: type[C], *, keep_tilde: bool = False) -> C:
    """Return the config of a recipe file and command-line overrides.

    Args:
        path: YAML file with the settings that differ from the defaults.
        overrides: `a.b=value` each; values are parsed as YAML.
        keep_tilde: keep `~` in paths, for another machine to expand.

    Raises:
        RecipeError: names the file or override, the key, and the fix.
    """
    context = {KEEP_TILDE: keep_tilde, RECIPE_FOLDER: Path(expand_home(path)).parent}
    return validate_recipe(path, apply_overrides(read_yaml(path), overrides), config_class, context)


def validate_recipe(
    name: str,
    values: Mapping[str, Any],
    config_class: type[C],
    context: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> C:
    """Return the config of nested values.

    Args:
        name: source of the values, such as a file or stage, for error messages.
        context: validation context.
        prefix: prefix of the keys on the command line.

    Raises:
        RecipeError: names the key and the fix.
    """
    try:
        return config_class.model_validate(values, context=dict(context or {}))
    except ValidationError as error:
        raise RecipeError(f"{name}: {_first_problem(error.errors(include_url=False), config_class, prefix)}") from None


def check_partial_values(name: str, values: Mapping[str, Any], config_class: type[BaseModel]) -> None:
    """Validate some of the values of a config; the others may be missing.

    Raises:
        RecipeError: names the key and the fix.
    """
    try:
        config_class.model_validate(values)
    except ValidationError as error:
        problems = [problem for problem in error.errors(include_url=False) if problem["type"] != "missing"]
        if problems:
            raise RecipeError(f"{name}: {_first_problem(problems, config_class)}") from None


def merge_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values updated with `changes`. Mappings are merged, everything else is replaced."""
    result = copy.deepcopy(dict(values))
    for key, change in changes.items():
        section = result.get(key)
        if isinstance(section, dict) and isinstance(change, dict):
            result[key] = merge_values(section, change)
        else:
            result[key] = copy.deepcopy(change)
    return result


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=value` overrides to nested values in place, and return them.

    Raises:
        RecipeError: an override is malformed.
    """
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys, section = dotted.split("."), values
        if not equals or not all(keys):
            raise RecipeError(f"override '{override}': write it as key=value or section.key=value")
        value = read_value(override, text)
        for key in keys[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise RecipeError(f"override '{override}': '{key}' is a value, not a section")
        section[keys[-1]] = value
    return values


def read_value(override: str, text: str) -> Any:
    """Parse the value of an override as YAML.

    Raises:
        RecipeError: the value is not valid YAML.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except _YAML_ERRORS as error:
        raise RecipeError(f"override '{override}': {_one_line(error)}") from None


def hint(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: its new name, the closest known name, or all known names."""
    names = list(known)
    if (new := RENAMED.get(name)) in names:
        return f"renamed to '{new}'"
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(names)}"


def _first_problem(problems: Sequence[ErrorDetails], config_class: type[BaseModel], prefix: str = "") -> str:
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"]) or "the whole recipe"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {hint(str(first['loc'][-1]), _sibling_keys(config_class, first['loc']))}"
    elif first["type"] == "missing":
        message = "missing; add it to the recipe"
        if not any(isinstance(part, int) for part in first["loc"]):  # an override cannot address a list entry
            message += f" or {prefix}{key}=... to the command"
    elif isinstance(first["input"], str | int | float | bool):
        message += f" (got {first['input']!r})"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{more}"


def _sibling_keys(config_class: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are valid in the section of the last key of an error location."""
    models = [config_class]
    for part in location[:-1]:
        field = next((model.model_fields[part] for model in models if part in model.model_fields), None)
        if field is not None:
            models = _models_in(field.annotation) or models
        else:  # an index, a mapping key, or the tag of a union member
            models = [model for model in models if _has_tag(model, part)] or models
    return sorted(models[0].model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _has_tag(model: type[BaseModel], tag: int | str) -> bool:
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    message = " ".join(str(error).split()) or type(error).__name__
    return message if isinstance(error, yaml.YAMLError) else f"invalid value ({message})"
