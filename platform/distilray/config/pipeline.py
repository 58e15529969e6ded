"""A pipeline file: variables, and stages that refer to them and to each other.

    variables:
      folder: runs/mine              # default; a variable without one must be set on the command line
      text:
    stages:                          # in the order in which they run
      build_corpus:                  # name; the row of the stage table is the same, or `stage: NAME`
        recipe: build_corpus/quickstart.yaml    # beside this file or in jobs/recipes; may be left out
        values:                      # laid over the recipe: mappings are merged, everything else is replaced
          run_dir: ${folder}/corpus
      encode_corpus:
        recipe: encode_corpus/quickstart.yaml
        values:
          run_dir: ${folder}/shards
          corpus_dir: ${build_corpus}
    show: [encode_corpus]            # whose results are printed at the end; the last stage when left out

`${NAME}` is a variable or the run folder of an earlier stage, `${stages}` the list of the run folders of all earlier
stages. `like: STAGE` copies an earlier stage, and `extends: FILE` another pipeline; what is beside it is laid over the
copy, and an empty stage leaves out that of the other pipeline.
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
_ALL = "stages"  # `${stages}`
_MOST_EXTENDED = 5

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
    """A row of the stage table."""

    @property
    def config_class(self) -> type[JobConfig]: ...


@dataclass(frozen=True)
class PipelineStage:
    """A stage of a pipeline.

    Attributes:
        stage: row of the stage table.
        source: file and name, for errors.
        recipe: path of its recipe; None if `values` are all.
        is_late: whether an earlier stage writes the recipe.
        values: laid over the recipe.
        overrides: of the command line.
        keep_tilde: leaves `~` in paths, which another machine will expand.
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
        """Return the config; that of a late recipe exists after the stage that writes it.

        Raises:
            InputError: with the file, the stage and the key.
        """
        folder = Path(expand_home(self.recipe)).parent if self.recipe else None
        context = {KEEP_TILDE: self.keep_tilde, RECIPE_FOLDER: folder}
        values = self._over(read_yaml(self.recipe) if self.recipe else {})
        return validate_recipe(self.source, values, self.config_class, context, f"{self.name}.")

    def known_values(self) -> Values:
        """Return the values without those of a late recipe."""
        return self._over(read_yaml(self.recipe) if self.recipe and not self.recipe_is_generated else {})

    def partial_config(self) -> JobConfig:
        """Return the config; of a late recipe one of the known locations alone, not validated."""
        if not self.recipe_is_generated:
            return self.config()
        known, fields = self.known_values(), location_fields(self.config_class)
        return self.config_class.model_construct(**{key: value for key, value in known.items() if key in fields})

    def checked(self) -> "PipelineStage":
        """Return the stage with its run folder, after a check of all values that are known.

        Raises:
            InputError: with the file, the stage and the key.
        """
        if not self.recipe_is_generated:
            return replace(self, run_dir=self.config().run_dir)
        check_partial_values(self.source, values := self.known_values(), self.config_class)
        if "run_dir" not in values:
            raise InputError(f"{self.source}: run_dir: missing; add it to values: an earlier stage writes the recipe")
        return replace(self, run_dir=values["run_dir"])

    def _over(self, recipe: Values) -> Values:
        return apply_overrides(merge_values(recipe, self.values), self.overrides)


@dataclass(frozen=True)
class Pipeline:
    """The stages of a pipeline in their order.

    Attributes:
        show: names of the stages whose results are printed at the end.
        files: the pipeline files, and the recipes that exist before a run.
    """

    stages: Sequence[PipelineStage]
    show: Sequence[str]
    files: Sequence[str]

    def chosen(self, only: str | None, skip: str | None) -> "Pipeline":
        """Return the stages that one of comma-separated patterns fits, without all that one of others fits.

        Raises:
            InputError: a pattern that fits no stage, or nothing is left.
        """
        names = [stage.name for stage in self.stages]
        wanted, unwanted = (text.split(",") if text else [] for text in (only, skip))
        for pattern in [*wanted, *unwanted]:
            if not fnmatch.filter(names, pattern):
                raise InputError(f"'{pattern}' is no stage; there are {', '.join(names)}")
        chosen = [name for name in names if _fits(name, wanted or ["*"]) and not _fits(name, unwanted)]
        if not chosen:
            raise InputError("--only and --skip leave no stage to run")
        show = [name for name in self.show if name in chosen] or chosen[-1:]
        return replace(self, stages=[stage for stage in self.stages if stage.name in chosen], show=show)


def load_pipeline(
    path: str, arguments: Sequence[str], table: Mapping[str, StageRow], *, recipes: Path, keep_tilde: bool = False
) -> Pipeline:
    """Read a pipeline file and check all of its stages, without a look at their inputs.

    Args:
        arguments: `NAME=value` of a variable or `STAGE.a.b=value` of a recipe each.
        table: the stage table.
        recipes: folder of the recipes that are not beside the file.
        keep_tilde: leaves `~` in paths, which another machine will expand.

    Raises:
        InputError: with the file, the stage and the key, or the argument.
    """
    raw, files = _read(path)
    entries = _expand(path, raw["stages"])
    names, overrides = _arguments(path, arguments, raw["variables"], entries)
    folders = (Path(expand_home(path)).parent, recipes)
    stages: list[PipelineStage] = []
    for name, entry in entries.items():
        source, row = f"{path}: stage {name}", entry.pop("stage")
        if name in names or name == _ALL or not _NAME.fullmatch(name):
            raise InputError(f"{source}: choose another name, of letters, digits, _ and -, and not that of a variable")
        if row not in table:
            raise InputError(f"{source}: '{row}' is no stage; {hint(row, table)}")
        run_dirs = {each.name: each.run_dir for each in stages}
        filled = _fill(entry, {**names, **run_dirs, _ALL: list(run_dirs.values())}, source, list(entries))
        recipe_is_generated = bool(run_dirs.keys() & _REFERENCE.findall(entry.get("recipe", "")))
        recipe = filled.get("recipe")
        if recipe is not None and not recipe_is_generated:
            recipe = _recipe_path(recipe, source, folders)
        values, config_class = filled.get("values", {}), table[row].config_class
        stage = PipelineStage(
            name, row, config_class, source, recipe, recipe_is_generated, values, overrides[name], keep_tilde
        )
        stages.append(stage := stage.checked())
        if stage.run_dir in run_dirs.values():
            raise InputError(f"{source}: run_dir: {stage.run_dir} is that of an earlier stage; give it one of its own")
    for name in raw["show"]:
        if name not in entries:
            raise InputError(f"{path}: show: '{name}' is no stage; {hint(name, entries)}")
    read = [stage.recipe for stage in stages if stage.recipe and not stage.recipe_is_generated]
    return Pipeline(stages, raw["show"], list(dict.fromkeys([*files, *read])))


def _read(path: str, depth: int = 0) -> tuple[Values, list[str]]:
    """Return the content of a file laid over that of the one it extends, and the paths of both."""
    if depth > _MOST_EXTENDED:
        raise InputError(f"{path}: extends: more than {_MOST_EXTENDED} files, or a file that extends itself")
    own = read_yaml(path)
    validate_recipe(path, own, _File)
    base: Values = {"variables": {}, "stages": {}, "show": []}
    files: list[str] = []
    if "extends" in own:
        base, files = _read(str(Path(expand_home(path)).parent / own.pop("extends")), depth + 1)
    merged = merge_values(base, own)
    for name in [name for name in base["stages"] if merged["stages"][name] is None]:
        del merged["stages"][name]
    # A variable that is a mapping is replaced.
    return {**merged, "variables": {**base["variables"], **own.get("variables", {})}}, [path, *files]


def _expand(path: str, stages: Mapping[str, Any]) -> dict[str, Values]:
    """Return the stages with what they copy, each with its row of the stage table."""
    if not stages:
        raise InputError(f"{path}: stages: missing or empty; name at least one")
    entries: dict[str, Values] = {}
    for name, entry in stages.items():
        if entry is None:
            raise InputError(f"{path}: stage {name}: empty; give it a recipe or values")
        like = (own := dict(entry)).pop("like", None)
        if like is not None and like not in entries:
            raise InputError(f"{path}: stage {name}: like: '{like}' is no earlier stage; {hint(like, entries)}")
        entries[name] = merge_values({"stage": name} if like is None else entries[like], own)
    return entries


def _arguments(
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
        filled[name] = _fill(value, filled, f"{path}: variable {name}")
    return filled, overrides


def _fill(value: Any, names: Mapping[str, Any], source: str, later: Sequence[str] = ()) -> Any:
    """Return a value with its references replaced; one that is nothing but a reference keeps the type."""
    if isinstance(value, dict):
        return {key: _fill(each, names, f"{source}: {key}", later) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, names, source, later) for each in value]
    if not isinstance(value, str):
        return value

    def named(match: re.Match[str]) -> Any:
        if (name := match[1]) in names:
            return names[name]
        problem = "a stage that does not run before this one" if name in later else "no variable and no stage"
        raise InputError(f"{source}: ${{{name}}} is {problem}; {hint(name, names)}")

    whole = _REFERENCE.fullmatch(value)
    return named(whole) if whole else _REFERENCE.sub(lambda match: str(named(match)), value)


def _recipe_path(recipe: str, source: str, folders: Sequence[Path]) -> str:
    files = [folder / expand_home(recipe) for folder in folders]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise InputError(f"{source}: recipe: {recipe} is in neither of {', '.join(map(str, folders))}")
    return str(path)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
