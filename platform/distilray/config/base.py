"""The base classes of every recipe, and the bounded values that its keys take."""

import hashlib
import json
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
FractionBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Place = Annotated[str, Field(min_length=1)]  # a path or URI
Positive = Annotated[float, Field(gt=0.0)]

_PLACES = ("path", "paths", "_dir")  # ends of the keys that say where something lies


class Config(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error.

    A part with `identity = False` says how a run is executed (workers, threads, intervals of the log), not what it
    computes, and does not count when two runs are compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: ClassVar[bool] = True

    def identity_values(self) -> dict[str, Any]:
        """The values that decide what the run computes, as JSON types.

        Folders and paths are left out: a run is known by the content of its inputs, wherever they lie.
        """
        fields = {name: value for name, value in self if not name.endswith(_PLACES)}
        return {
            name: _identity_value(value)
            for name, value in fields.items()
            if not isinstance(value, Config) or value.identity
        }

    def identity_hash(self) -> str:
        """sha256 of `identity_values`, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity_values(), sort_keys=True).encode()).hexdigest()


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

    run_dir: Place = Field(description="the folder (path or URI) that the run writes")


class SeededConfig(JobConfig):
    """What the recipe of a job that draws at random holds besides."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=56, description="of all that is drawn")


class RayJobConfig(JobConfig):
    """What the recipe of a job that runs on Ray holds besides."""

    ray: RayConfig = RayConfig()
