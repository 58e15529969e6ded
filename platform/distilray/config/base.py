"""Base classes of all recipes, and the types of their values: bounded numbers, paths and URIs."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, expand_home

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
FractionBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]

C = TypeVar("C", bound="Config")

# Keys of the validation context.
KEEP_TILDE = "keep_tilde"  # if true, `~` is not expanded
RECIPE_FOLDER = "recipe_folder"  # the folder of the recipe, as a `Path`


Kind = Literal["file", "folder", "run", "model", "tokenizer", "causal_model", "glue", "output", "cache"]
_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "file": (SAMPLE_PREFIX,),
    "model": (HUB_PREFIX, SAMPLE_PREFIX),
    "tokenizer": (HUB_PREFIX, SAMPLE_PREFIX),
}


@dataclass(frozen=True)
class LocationType:
    """Type of a path or URI. Parsing expands `~` and uses neither disk nor network.

    Attributes:
        kind: what is stored there; `output` and `cache` are written, all others are inputs.
        job: which writes the run that is read; None for a run of any job.
        is_absolute: whether a relative path is made absolute before a run, because workers have other folders.
        is_optional: whether an input is left out while its run is not complete.
        name: of the input in manifests, see `InputName`.
    """

    kind: Kind
    job: str | None = None
    is_absolute: bool = True
    is_optional: bool = False
    name: str | None = ""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Beginnings of names that are accepted besides paths and URIs."""
        return _PREFIXES.get(self.kind, ())

    @property
    def is_input(self) -> bool:
        """True if manifests record the location as an input."""
        return self.kind not in ("output", "cache") and self.name is not None

    @property
    def is_shared(self) -> bool:
        """True if all machines of a cluster must see the location."""
        return self.kind != "cache"

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
        return value if info.context and info.context.get(KEEP_TILDE) else expand_home(value)


@dataclass(frozen=True)
class InputName:
    """Name of an input in manifests, where it is not the key without `_dir` or `_path`.

    Attributes:
        name: `#` stands for a number from 0, `{field}` for another field of the section. None: manifests do not record
            the input, because it does not change the result.
    """

    name: str | None


# A file, folder or pattern to read.
InputFile = Annotated[str, Field(min_length=1), LocationType("file", is_absolute=False)]
# The same, read by workers.
SharedFile = Annotated[str, Field(min_length=1), LocationType("file")]
# A folder to read.
InputDir = Annotated[str, Field(min_length=1), LocationType("folder")]
# The folder that a run writes.
OutputDir = Annotated[str, Field(min_length=1), LocationType("output")]
# A folder on every machine, for copies of remote files.
CacheDir = Annotated[str, Field(min_length=1), LocationType("cache", is_absolute=False)]
# A model: run folder, model folder or URI of one, `hub:OWNER/NAME` or `sample:NAME`.
ModelRef = Annotated[str, Field(min_length=1), LocationType("model")]
# A folder with `tokenizer.json`, named as a model.
Tokenizer = Annotated[str, Field(min_length=1), LocationType("tokenizer")]
# A folder with a causal language model.
CausalModelDir = Annotated[str, Field(min_length=1), LocationType("causal_model")]
# A folder with a folder for each task of GLUE.
GlueDir = Annotated[str, Field(min_length=1), LocationType("glue")]
# Run folders, by the job that writes them.
Documents = Annotated[str, Field(min_length=1), LocationType("run", "build_corpus")]
Shards = Annotated[str, Field(min_length=1), LocationType("run", "encode_corpus")]
TeacherCache = Annotated[str, Field(min_length=1), LocationType("run", "cache_teacher")]
GlueRun = Annotated[str, Field(min_length=1), LocationType("run", "evaluate_glue")]


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
def location_fields(config_class: type[Config]) -> Mapping[str, LocationType]:
    """The fields of a config class that hold paths or URIs, also in lists and mappings."""
    found: dict[str, LocationType] = {}
    for name, field in config_class.model_fields.items():
        marks = list(_marks_in(field.annotation, *field.metadata))
        location = next((mark for mark in marks if isinstance(mark, LocationType)), None)
        names = [mark.name for mark in marks if isinstance(mark, InputName)]
        if location is not None:
            found[name] = replace(location, name=names[0]) if names else location
    return found


def _marks_in(*annotations: Any) -> Iterator[LocationType | InputName]:
    for annotation in annotations:
        if isinstance(annotation, LocationType | InputName):
            yield annotation
        else:
            yield from _marks_in(*get_args(annotation))


@dataclass(frozen=True)
class ConfigLocation:
    """A path or URI in a config.

    Attributes:
        key: dotted, as in an override.
        name: of the field in its section, followed by `.ENTRY` in a list or mapping.
        section: the config that has the field.
    """

    key: str
    value: str
    location: LocationType
    name: str
    section: Config

    @property
    def is_input(self) -> bool:
        """True if manifests record the location as an input."""
        return self.location.is_input and type(self.section).identity

    @property
    def input_name(self) -> str:
        """Its name in manifests, with `#` in place of a number."""
        if self.location.name:
            return self.location.name.format_map(dict(self.section))
        return self.key.split(".")[-2] if self.name == "path" else self.name.removesuffix("_dir").removesuffix("_path")


def locations(config: Config) -> list[ConfigLocation]:
    """The paths and URIs in a config and its sections."""
    found: list[ConfigLocation] = []

    def record(each: ConfigLocation) -> str:
        found.append(each)
        return each.value

    map_locations(config, record)
    return found


def input_locations(
    config: Config, is_chosen: Callable[[ConfigLocation], bool] = lambda each: True
) -> dict[str, ConfigLocation]:
    """The inputs of a run by their names in manifests.

    Args:
        is_chosen: of the inputs, which are numbered without the others.
    """
    found: dict[str, ConfigLocation] = {}
    counts: Counter[str] = Counter()
    for each in locations(config):
        if each.is_input and is_chosen(each):
            pattern = each.input_name
            found[pattern.replace("#", str(counts[pattern]))] = each
            counts[pattern] += 1
    return found


def map_locations(config: C, change: Callable[[ConfigLocation], str], prefix: str = "") -> C:
    """Return the config with `change` applied to every path or URI in it and its sections."""

    def mapped(value: Any, location: LocationType | None, name: str) -> Any:
        if isinstance(value, Config):
            return map_locations(value, change, f"{prefix}{name}.")
        if isinstance(value, str) and location is not None:
            return change(ConfigLocation(f"{prefix}{name}", value, location, name, config))
        if isinstance(value, dict):
            return {key: mapped(entry, location, f"{name}.{key}") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(mapped(entry, location, f"{name}.{number}") for number, entry in enumerate(value))
        return value

    marks = location_fields(type(config))
    values = {name: mapped(value, marks.get(name), name) for name, value in config}
    # What stays is left out: `model_copy` counts every value as one that the recipe sets.
    return config.model_copy(update={name: value for name, value in values.items() if value != getattr(config, name)})


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
