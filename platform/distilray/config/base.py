"""Base classes of all configs and the types of their values: bounded numbers, paths and URIs."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, expand_home

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
FractionBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]
Precision = Literal["fp32", "fp16", "bf16"]
PrecisionSetting = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"],
    Field(
        description="precision of matrix products; auto: bf16 or else fp16 if the device has matrix units for it, "
        "otherwise fp32; training in fp16 scales the loss"
    ),
]
Deterministic = Annotated[
    bool, Field(description="bit-identical results on the same GPUs, also after an interruption; slower")
]

C = TypeVar("C", bound="Config")

# Keys of the validation context.
KEEP_TILDE = "keep_tilde"  # if true, `~` is not expanded
RECIPE_FOLDER = "recipe_folder"  # folder of the recipe file, as a `Path`

Kind = Literal["file", "folder", "run", "model", "tokenizer", "causal_model", "glue", "output", "cache"]
_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "file": (SAMPLE_PREFIX,),
    "model": (HUB_PREFIX, SAMPLE_PREFIX),
    "tokenizer": (HUB_PREFIX, SAMPLE_PREFIX),
}


@dataclass(frozen=True)
class LocationType:
    """Type of a path or URI. Parsing expands `~` and never touches the disk or the network.

    Attributes:
        kind: content of the location; `output` and `cache` are written, all others are inputs.
        job: job that must have written the run; None accepts a run of any job.
        make_absolute: make a relative path absolute before a run, because workers have other working directories.
        is_optional: skip the input while its run is incomplete.
        name: name of the input in manifests, see `InputName`.
    """

    kind: Kind
    job: str | None = None
    make_absolute: bool = True
    is_optional: bool = False
    name: str | None = ""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of values that are neither paths nor URIs, such as `hub:`."""
        return _PREFIXES.get(self.kind, ())

    @property
    def is_input(self) -> bool:
        """True if manifests record the location as an input."""
        return self.kind not in ("output", "cache") and self.name is not None

    @property
    def is_shared(self) -> bool:
        """True if every machine of a cluster must see the location."""
        return self.kind != "cache"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._parse, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "format": "path"}

    def _parse(self, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            raise ValueError("empty (YAML parses a bare ~ as null); write a path such as ~/runs")
        if not isinstance(value, str):
            return value
        if "\0" in value:
            raise ValueError("contains a null byte; correct the path")
        if value.startswith((SAMPLE_PREFIX, HUB_PREFIX)):
            if not value.startswith(self.prefixes):
                raise ValueError(f"must be a path or URI; write ./{value} for a file of this name")
            return value
        return value if info.context and info.context.get(KEEP_TILDE) else expand_home(value)


@dataclass(frozen=True)
class InputName:
    """Name of an input in manifests, if it differs from the key without `_dir` or `_path`.

    Attributes:
        name: may contain `#`, a counter from 0, and `{field}`, the value of another field of the section. None keeps
            the input out of manifests because it does not affect the result.
    """

    name: str | None


# A file, folder or glob pattern.
InputFile = Annotated[str, Field(min_length=1), LocationType("file", make_absolute=False)]
# The same, read by workers.
SharedFile = Annotated[str, Field(min_length=1), LocationType("file")]
InputDir = Annotated[str, Field(min_length=1), LocationType("folder")]
# The folder that a run writes.
OutputDir = Annotated[str, Field(min_length=1), LocationType("output")]
# A folder on every machine for copies of remote files.
CacheDir = Annotated[str, Field(min_length=1), LocationType("cache", make_absolute=False)]
# A run folder, model folder or URI of one, `hub:OWNER/NAME` or `sample:NAME`.
ModelRef = Annotated[str, Field(min_length=1), LocationType("model")]
# A folder with `tokenizer.json`; accepts the same forms as a model.
Tokenizer = Annotated[str, Field(min_length=1), LocationType("tokenizer")]
CausalModelDir = Annotated[str, Field(min_length=1), LocationType("causal_model")]
# A folder with one subfolder per GLUE task.
GlueDir = Annotated[str, Field(min_length=1), LocationType("glue")]
# Run folders, by the job that writes them.
Documents = Annotated[str, Field(min_length=1), LocationType("run", "build_corpus")]
Shards = Annotated[str, Field(min_length=1), LocationType("run", "encode_corpus")]
TeacherCache = Annotated[str, Field(min_length=1), LocationType("run", "cache_teacher")]
GlueRun = Annotated[str, Field(min_length=1), LocationType("run", "evaluate_glue")]


class Config(BaseModel):
    """A section of a recipe. Instances are frozen, and unknown keys are errors.

    A section with `identity = False` controls how a run is executed (workers, threads, logging), not what it computes.
    It is ignored when two runs are compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: ClassVar[bool] = True

    def identity_values(self) -> dict[str, Any]:
        """Return the values that determine what the run computes, as JSON types.

        Locations are excluded because inputs are identified by their content.
        """
        fields = {name: value for name, value in self if name not in location_fields(type(self))}
        return {
            name: _identity_value(value)
            for name, value in fields.items()
            if not isinstance(value, Config) or value.identity
        }

    def identity_hash(self) -> str:
        """Return the SHA-256 of `identity_values` as hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity_values(), sort_keys=True).encode()).hexdigest()


@functools.cache
def location_fields(config_class: type[Config]) -> Mapping[str, LocationType]:
    """Return the fields of a config class that hold paths or URIs, including lists and mappings of them."""
    fields: dict[str, LocationType] = {}
    for name, field in config_class.model_fields.items():
        annotations = list(_location_annotations(field.annotation, *field.metadata))
        location_type = next((item for item in annotations if isinstance(item, LocationType)), None)
        names = [item.name for item in annotations if isinstance(item, InputName)]
        if location_type is not None:
            fields[name] = replace(location_type, name=names[0]) if names else location_type
    return fields


def _location_annotations(*annotations: Any) -> Iterator[LocationType | InputName]:
    for annotation in annotations:
        if isinstance(annotation, LocationType | InputName):
            yield annotation
        else:
            yield from _location_annotations(*get_args(annotation))


@dataclass(frozen=True)
class ConfigLocation:
    """A path or URI in a config.

    Attributes:
        key: dotted key, as in an override.
        name: name of the field in its section, followed by `.INDEX` or `.KEY` for an entry of a list or mapping.
        section: config that contains the field.
    """

    key: str
    value: str
    type: LocationType
    name: str
    section: Config

    @property
    def is_input(self) -> bool:
        """True if manifests record the location as an input."""
        return self.type.is_input and self.section.identity

    @property
    def input_name(self) -> str:
        """Name in manifests, with `#` in place of a counter."""
        if self.type.name:
            return self.type.name.format_map(dict(self.section))
        return self.key.split(".")[-2] if self.name == "path" else self.name.removesuffix("_dir").removesuffix("_path")


def locations(config: Config) -> list[ConfigLocation]:
    """Return the paths and URIs in a config and its sections."""
    collected: list[ConfigLocation] = []

    def collect(location: ConfigLocation) -> str:
        collected.append(location)
        return location.value

    map_locations(config, collect)
    return collected


def input_locations(
    config: Config, is_included: Callable[[ConfigLocation], bool] = lambda location: True
) -> dict[str, ConfigLocation]:
    """Return the inputs of a run by their names in manifests.

    Args:
        is_included: filter; excluded inputs do not advance the counter in `InputName`.
    """
    inputs: dict[str, ConfigLocation] = {}
    counts: Counter[str] = Counter()
    for location in locations(config):
        if location.is_input and is_included(location):
            pattern = location.input_name
            inputs[pattern.replace("#", str(counts[pattern]))] = location
            counts[pattern] += 1
    return inputs


def map_locations(config: C, change: Callable[[ConfigLocation], str], prefix: str = "") -> C:
    """Return the config with `change` applied to every path or URI in it and its sections."""

    def mapped(value: Any, location_type: LocationType | None, name: str) -> Any:
        if isinstance(value, Config):
            return map_locations(value, change, f"{prefix}{name}.")
        if isinstance(value, str) and location_type is not None:
            return change(ConfigLocation(f"{prefix}{name}", value, location_type, name, config))
        if isinstance(value, dict):
            return {key: mapped(entry, location_type, f"{name}.{key}") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(mapped(entry, location_type, f"{name}.{index}") for index, entry in enumerate(value))
        return value

    types = location_fields(type(config))
    values = {name: mapped(value, types.get(name), name) for name, value in config}
    # Pass only changed values, because `model_copy` treats every field in `update` as set by the recipe.
    return config.model_copy(update={name: value for name, value in values.items() if value != getattr(config, name)})


def _identity_value(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity_values()
    if isinstance(value, list | tuple):
        return [_identity_value(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _identity_value(entry) for key, entry in value.items()}
    return value


class RayConfig(Config):
    """The local Ray cluster that a job starts outside a cluster."""

    identity: ClassVar[bool] = False
    num_cpus: Count | None = Field(
        default=None, description="CPUs of the local cluster; default: all cores; ignored inside a cluster"
    )
    object_store_mb: Annotated[int, Field(ge=80)] | None = Field(
        default=None, description="object store of the local cluster in MB; default: chosen by Ray"
    )


class JobConfig(Config):
    """Settings of every job."""

    run_dir: OutputDir = Field(description="folder (path or URI) that the run writes")


class SeededConfig(JobConfig):
    """Settings of jobs that use random numbers."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=56, description="seed of all random numbers")


class RayJobConfig(JobConfig):
    """Settings of jobs that run on Ray."""

    ray: RayConfig = RayConfig()
