"""Base classes of all recipes, and the types of their values: bounded numbers, paths and URIs."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, expand_home

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
FractionBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]

# Keys of the validation context.
KEEP_HOME = "keep_home"  # if true, `~` is not expanded
RECIPE_FOLDER = "recipe_folder"  # the folder of the recipe, as a `Path`


@dataclass(frozen=True)
class Location:
    """Marker of the types of paths and URIs. Parsing expands `~` and uses neither disk nor network.

    Attributes:
        prefixes: of names that are accepted besides paths and URIs.
        is_absolute: whether a relative path is made absolute before a run, because workers have other folders.
        is_shared: whether all machines of a cluster must see the location.
    """

    prefixes: tuple[str, ...] = ()
    is_absolute: bool = False
    is_shared: bool = True

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._parse, handler(source))

    def _parse(self, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            raise ValueError("empty (YAML reads a lone ~ as empty); write a path, such as ~/runs")
        if not isinstance(value, str):
            return value
        if "\0" in value:
            raise ValueError("contains a zero byte; correct the path")
        if value.startswith((SAMPLE_PREFIX, HUB_PREFIX)):
            if not value.startswith(self.prefixes):
                raise ValueError(f"a path or URI is needed here; write ./{value} if a file has this name")
            return value
        return value if info.context and info.context.get(KEEP_HOME) else expand_home(value)


# A file, folder or pattern to read.
InputFile = Annotated[str, Field(min_length=1), Location(prefixes=(SAMPLE_PREFIX,))]
# The folder of a complete run, or another folder to read.
InputDir = Annotated[str, Field(min_length=1), Location(is_absolute=True)]
# The folder that a run writes.
OutputDir = Annotated[str, Field(min_length=1), Location(is_absolute=True)]
# A model: run folder, model folder or URI of one, `hub:OWNER/NAME` or `sample:NAME`.
ModelRef = Annotated[str, Field(min_length=1), Location(prefixes=(HUB_PREFIX, SAMPLE_PREFIX), is_absolute=True)]
# A folder on every machine, for copies of remote files.
CacheDir = Annotated[str, Field(min_length=1), Location(is_shared=False)]


class Config(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error.

    A part with `identity = False` says how a run is executed (workers, threads, intervals of the log), not what it
    computes, and does not count when two runs are compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: ClassVar[bool] = True

    def identity_values(self) -> dict[str, Any]:
        """The values that decide what the run computes, as JSON types.

        Locations are left out: a run is identified by the content of its inputs.
        """
        fields = {name: value for name, value in self if name not in location_fields(type(self))}
        return {
            name: _identity_value(value)
            for name, value in fields.items()
            if not isinstance(value, Config) or value.identity
        }

    def identity_hash(self) -> str:
        """sha256 of `identity_values`, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity_values(), sort_keys=True).encode()).hexdigest()


@functools.cache
def location_fields(config_class: type[Config]) -> Mapping[str, Location]:
    """The fields of a config class that hold paths or URIs, also in lists and mappings."""
    marks = {name: _location_in(field.annotation, *field.metadata) for name, field in config_class.model_fields.items()}
    return {name: mark for name, mark in marks.items() if mark is not None}


def _location_in(*annotations: Any) -> Location | None:
    for annotation in annotations:
        mark = annotation if isinstance(annotation, Location) else _location_in(*get_args(annotation))
        if mark is not None:
            return mark
    return None


def locations(config: Config, prefix: str = "") -> Iterator[tuple[str, str, Location]]:
    """The dotted key, value and type of every path or URI in a config and its sections."""
    marks = location_fields(type(config))
    for name, value in config:
        yield from _locations(f"{prefix}{name}", value, marks.get(name))


def _locations(key: str, value: Any, mark: Location | None) -> Iterator[tuple[str, str, Location]]:
    if isinstance(value, Config):
        yield from locations(value, f"{key}.")
    elif isinstance(value, str) and mark is not None:
        yield key, value, mark
    elif isinstance(value, list | tuple | dict):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _locations(f"{key}.{name}", part, mark)


def _identity_value(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity_values()
    if isinstance(value, list | tuple):
        return [_identity_value(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _identity_value(part) for key, part in value.items()}
    return value


class RayConfig(Config):
    """The Ray session that a job opens when it does not run inside a cluster already."""

    identity: ClassVar[bool] = False
    num_cpus: Count | None = Field(
        default=None, description="CPUs of the local cluster; all cores when left out, ignored inside a cluster"
    )
    object_store_mb: Annotated[int, Field(ge=80)] | None = Field(
        default=None, description="object store of the local cluster in MB; Ray's own choice when left out"
    )


class JobConfig(Config):
    """What every job's recipe holds."""

    run_dir: OutputDir = Field(description="the folder (path or URI) that the run writes")


class SeededConfig(JobConfig):
    """What the recipe of a job that draws at random holds besides."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=56, description="of all that is drawn")


class RayJobConfig(JobConfig):
    """What the recipe of a job that runs on Ray holds besides."""

    ray: RayConfig = RayConfig()
