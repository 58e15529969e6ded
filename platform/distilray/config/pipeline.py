"""Pipeline files: variables, and stages that refer to them and to each other.

    variables:
      folder: runs/mine              # default; a variable without one must be set on the command line
      text:
    stages:                          # in the order in which they run
      build_corpus:                  # name of the stage, which selects its job; or set `stage: JOB`
        recipe: build_corpus/quickstart.yaml    # next to this file or in jobs/recipes; optional
        values:                      # applied to the recipe: mappings are merged, other values are replaced
          run_dir: ${folder}/corpus
      encode_corpus:
        recipe: encode_corpus/quickstart.yaml
        values:
          run_dir: ${folder}/shards
          corpus_dir: ${build_corpus}
    show: [encode_corpus]            # stages whose results are printed at the end; default: the last stage

`${NAME}` is a variable or the run folder of an earlier stage; `${stages}` is the list of the run folders of all earlier
stages. `like: STAGE` copies an earlier stage, and `extends: FILE` copies another pipeline. The other keys are
applied to the copy, and an empty stage removes the stage of that name from the copied pipeline.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from distilray.config.base import KEEP_TILDE, RECIPE_FOLDER, JobConfig, location_fields
from distilray.config.paths import expand_home
from distilray.config.recipe import (
    apply_overrides,
    check_partial_values,
    hint,
    merge_values,
    read_value,
    read_yaml,
    validate_recipe,
)
from distilray.errors import InputError

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ALL_STAGES = "stages"  # `${stages}`
_MAX_EXTENDS = 5
Values = dict[str, Any]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stage: str | None = None
    like: str | None = None
    recipe: str | None = None
    values: Values = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    extends: str | None = None
    variables: Values = {}
    stages: dict[str, _Entry | None] = {}
    show: list[str] = []


class StageRow(Protocol):
    @property
    def config_class(self) -> type[JobConfig]: ...


@dataclass(frozen=True)
class PipelineStage:
    """A stage of a pipeline.

    Attributes:
        stage: name of its row in the stage table.
        source: file and name, for error messages.
        recipe: path of its recipe; None if `values` contains all settings.
        recipe_is_generated: True if an earlier stage writes the recipe.
        values: settings applied on top of the recipe.
        overrides: settings from the command line.
        keep_tilde: keep `~` in paths, for another machine to expand.
    """

    name: str
    stage: str
    config_class: type[JobConfig]
    source: str
    recipe: str | None
    recipe_is_generated: bool
    values: Values
    overrides: Sequence[str]
    keep_tilde: bool
    run_dir: str = ""

    def config(self) -> JobConfig:
        """Return the config. If the recipe is generated, the stage that writes it must have run.

        Raises:
            InputError: names the file, the stage and the key.
        """
        folder = Path(expand_home(self.recipe)).parent if self.recipe else None
        context = {KEEP_TILDE: self.keep_tilde, RECIPE_FOLDER: folder}
        values = self._apply_to(read_yaml(self.recipe) if self.recipe else {})
        return validate_recipe(self.source, values, self.config_class, context, f"{self.name}.")

    def known_values(self) -> Values:
        """Return all values, except those of a generated recipe."""
        return self._apply_to(read_yaml(self.recipe) if self.recipe and not self.recipe_is_generated else {})

    def partial_config(self) -> JobConfig:
        """Return the config or, if the recipe is generated, an unvalidated config with only the known locations."""
        if not self.recipe_is_generated:
            return self.config()
        known, fields = self.known_values(), location_fields(self.config_class)
        return self.config_class.model_construct(**{key: value for key, value in known.items() if key in fields})

    def with_run_dir(self) -> "PipelineStage":
        """Validate all known values and return the stage with its run folder.

        Raises:
            InputError: names the file, the stage and the key.
        """
        if not self.recipe_is_generated:
            return replace(self, run_dir=self.config().run_dir)
        values = self.known_values()
        check_partial_values(self.source, values, self.config_class)
        if "run_dir" not in values:
            raise InputError(f"{self.source}: run_dir: missing; add it to values: an earlier stage writes the recipe")
        return replace(self, run_dir=values["run_dir"])

    def _apply_to(self, recipe: Values) -> Values:
        return apply_overrides(merge_values(recipe, self.values), self.overrides)


@dataclass(frozen=True)
class Pipeline:
    """The stages of a pipeline in execution order.

    Attributes:
        show: names of the stages whose results are printed at the end.
        files: the pipeline files and the recipes that exist before the run.
    """

    stages: Sequence[PipelineStage]
    show: Sequence[str]
    files: Sequence[str]

    def select(self, only: str | None, skip: str | None) -> "Pipeline":
        """Return the pipeline with the stages that match `only` and not `skip`, both comma-separated glob patterns.

        Raises:
            InputError: a pattern matches no stage, or no stage is left.
        """
        names = [stage.name for stage in self.stages]
        included, excluded = (text.split(",") if text else [] for text in (only, skip))
        for pattern in [*included, *excluded]:
            if not fnmatch.filter(names, pattern):
                raise InputError(f"'{pattern}' matches no stage; the stages are {', '.join(names)}")
        selected = [name for name in names if _matches(name, included or ["*"]) and not _matches(name, excluded)]
        if not selected:
            raise InputError("--only and --skip leave no stage to run")
        show = [name for name in self.show if name in selected] or selected[-1:]
        return replace(self, stages=[stage for stage in self.stages if stage.name in selected], show=show)


def load_pipeline(
    path: str, arguments: Sequence[str], table: Mapping[str, StageRow], *, recipes: Path, keep_tilde: bool = False
) -> Pipeline:
    """Read a pipeline file and validate all stages without accessing their inputs.

    Args:
        arguments: `NAME=value` for a variable or `STAGE.a.b=value` for the recipe of a stage.
        table: the stage table.
        recipes: folder of the recipes that are not next to the file.
        keep_tilde: keep `~` in paths, for another machine to expand.

    Raises:
        InputError: names the file, the stage and the key, or the argument.
    """
    raw, files = _read(path)
    entries = _expand_copies(path, raw["stages"])
    variables, overrides = _parse_arguments(path, arguments, raw["variables"], entries)
    folders = (Path(expand_home(path)).parent, recipes)
    stages: list[PipelineStage] = []
    for name, entry in entries.items():
        source, job = f"{path}: stage {name}", entry.pop("stage")
        if name in variables or name == _ALL_STAGES or not _NAME.fullmatch(name):
            raise InputError(f"{source}: choose another name (letters, digits, _ and -; not the name of a variable)")
        if job not in table:
            raise InputError(f"{source}: '{job}' is not a stage; {hint(job, table)}")
        run_dirs = {stage.name: stage.run_dir for stage in stages}
        names = {**variables, **run_dirs, _ALL_STAGES: list(run_dirs.values())}
        filled = _substitute(entry, names, source, list(entries))
        generated = bool(run_dirs.keys() & _REFERENCE.findall(entry.get("recipe", "")))
        recipe = filled.get("recipe")
        if recipe is not None and not generated:
            recipe = _find_recipe(recipe, source, folders)
        values, config_class = filled.get("values", {}), table[job].config_class
        stage = PipelineStage(name, job, config_class, source, recipe, generated, values, overrides[name], keep_tilde)
        stage = stage.with_run_dir()
        if stage.run_dir in run_dirs.values():
            raise InputError(f"{source}: run_dir: {stage.run_dir} belongs to an earlier stage; choose another folder")
        stages.append(stage)
    for name in raw["show"]:
        if name not in entries:
            raise InputError(f"{path}: show: '{name}' is not a stage; {hint(name, entries)}")
    files += [stage.recipe for stage in stages if stage.recipe and not stage.recipe_is_generated]
    return Pipeline(stages, raw["show"], list(dict.fromkeys(files)))


def _read(path: str, depth: int = 0) -> tuple[Values, list[str]]:
    """Return the content of a pipeline file, merged with the file that it extends, and the paths of all files read."""
    if depth > _MAX_EXTENDS:
        raise InputError(f"{path}: extends: more than {_MAX_EXTENDS} files, or a file that extends itself")
    own = read_yaml(path)
    validate_recipe(path, own, _File)
    base: Values = {"variables": {}, "stages": {}, "show": []}
    files: list[str] = []
    if "extends" in own:
        base, files = _read(str(Path(expand_home(path)).parent / own.pop("extends")), depth + 1)
    merged = merge_values(base, own)
    for name in [name for name in base["stages"] if merged["stages"][name] is None]:
        del merged["stages"][name]
    # A variable whose value is a mapping is replaced, not merged.
    return {**merged, "variables": {**base["variables"], **own.get("variables", {})}}, [path, *files]


def _expand_copies(path: str, stages: Mapping[str, Any]) -> dict[str, Values]:
    """Return the stages with `like` resolved, each with its row of the stage table."""
    if not stages:
        raise InputError(f"{path}: stages: missing or empty; add at least one")
    entries: dict[str, Values] = {}
    for name, entry in stages.items():
        if entry is None:
            raise InputError(f"{path}: stage {name}: empty; add a recipe or values")
        own = dict(entry)
        like = own.pop("like", None)
        if like is not None and like not in entries:
            raise InputError(f"{path}: stage {name}: like: '{like}' is not an earlier stage; {hint(like, entries)}")
        entries[name] = merge_values({"stage": name} if like is None else entries[like], own)
    return entries


def _parse_arguments(
    path: str, arguments: Sequence[str], defaults: Values, stages: Iterable[str]
) -> tuple[Values, dict[str, list[str]]]:
    """Return the values of all variables, and the overrides of each stage."""
    variables, overrides = dict(defaults), {name: list[str]() for name in stages}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        stage, dot, key = name.partition(".")
        if dot and stage in overrides:
            overrides[stage].append(f"{key}{equals}{text}")
        elif dot or not equals:
            form = "write NAME=value for a variable, or STAGE.key=value for the recipe of a stage"
            raise InputError(f"'{argument}': no such stage: {form}; {hint(stage, overrides)}")
        elif name not in defaults:
            raise InputError(f"'{argument}': {path} has no variable '{name}'; {hint(name, defaults)}")
        else:
            variables[name] = read_value(argument, text)
    filled: Values = {}
    for name, value in variables.items():
        if value is None:
            raise InputError(f"{path}: variable '{name}' has no value; add {name}=... to the command")
        filled[name] = _substitute(value, filled, f"{path}: variable {name}")
    return filled, overrides


def _substitute(value: Any, names: Mapping[str, Any], source: str, all_stages: Sequence[str] = ()) -> Any:
    """Replace the references in a value. A string that is a single reference becomes a value of the referenced type."""
    if isinstance(value, dict):
        return {key: _substitute(entry, names, f"{source}: {key}", all_stages) for key, entry in value.items()}
    if isinstance(value, list):
        return [_substitute(entry, names, source, all_stages) for entry in value]
    if not isinstance(value, str):
        return value

    def referenced(match: re.Match[str]) -> Any:
        if (name := match[1]) in names:
            return names[name]
        problem = "a stage that does not run before this one" if name in all_stages else "not a variable or a stage"
        raise InputError(f"{source}: ${{{name}}} is {problem}; {hint(name, names)}")

    whole = _REFERENCE.fullmatch(value)
    return referenced(whole) if whole else _REFERENCE.sub(lambda match: str(referenced(match)), value)


def _find_recipe(recipe: str, source: str, folders: Sequence[Path]) -> str:
    files = [folder / expand_home(recipe) for folder in folders]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise InputError(f"{source}: recipe: {recipe} does not exist in {' or '.join(map(str, folders))}")
    return str(path)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
