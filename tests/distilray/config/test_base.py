import json
from typing import ClassVar

import pytest
from pydantic import ValidationError

from distilray.config.base import Config, RayConfig, RayJobConfig, SeededConfig


class Model(Config):
    layers: int = 6


class Pace(Config):
    identity: ClassVar[bool] = False
    log_every_s: float = 5.0


class Recipe(SeededConfig, RayJobConfig):
    model: Model = Model()
    pace: Pace = Pace()
    parts: tuple[Model, ...] = ()
    maybe: Model | None = None


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Recipe(run_dir="x").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "same",
    [
        Recipe(run_dir="y"),
        Recipe(run_dir="x", pace=Pace(log_every_s=1)),
        Recipe(run_dir="x", ray=RayConfig(num_cpus=2)),
        Recipe(run_dir="x", model=Model(layers=6)),
    ],
    ids=["run_dir", "a part without identity", "ray", "a default written out"],
)
def test_the_way_a_run_is_executed_does_not_affect_its_identity(same: Recipe) -> None:
    assert same.identity_hash() == Recipe(run_dir="x").identity_hash()


@pytest.mark.parametrize(
    "other",
    [
        Recipe(run_dir="x", seed=1),
        Recipe(run_dir="x", model=Model(layers=3)),
        Recipe(run_dir="x", parts=(Model(),)),
        Recipe(run_dir="x", maybe=Model()),
    ],
    ids=["seed", "a section", "a list", "an optional section"],
)
def test_what_a_run_computes_is_its_identity(other: Recipe) -> None:
    assert other.identity_hash() != Recipe(run_dir="x").identity_hash()


def test_identity_values_survive_json() -> None:
    values = Recipe(run_dir="x", parts=(Model(layers=1),), maybe=Model()).identity_values()
    assert json.loads(json.dumps(values)) == values
