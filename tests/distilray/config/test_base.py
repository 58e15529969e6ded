import json
from typing import ClassVar

import pytest
from pydantic import ValidationError

from distilray.config.base import Config, RayConfig, RayJobConfig, SeededConfig
from distilray.config.glue import EvaluateGlueConfig


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
    ("config", "is_same"),
    [
        (Recipe(run_dir="y"), True),
        (Recipe(run_dir="x", pace=Pace(log_every_s=1)), True),
        (Recipe(run_dir="x", ray=RayConfig(num_cpus=2)), True),
        (Recipe(run_dir="x", model=Model(layers=6)), True),
        (Recipe(run_dir="x", seed=1), False),
        (Recipe(run_dir="x", model=Model(layers=3)), False),
        (Recipe(run_dir="x", parts=(Model(),)), False),
        (Recipe(run_dir="x", maybe=Model()), False),
    ],
    ids=["run_dir", "no identity", "ray", "explicit default", "seed", "section", "list", "optional section"],
)
def test_the_identity_of_a_run_is_what_it_computes_and_not_how(config: Recipe, is_same: bool) -> None:
    assert (config.identity_hash() == Recipe(run_dir="x").identity_hash()) is is_same


def test_identity_values_survive_json() -> None:
    values = Recipe(run_dir="x", parts=(Model(layers=1),), maybe=Model()).identity_values()
    assert json.loads(json.dumps(values)) == values


def test_settings_of_a_task_override_only_the_values_that_are_set() -> None:
    values = {"run_dir": "-", "model_dir": "-", "glue_dir": "-", "fine_tuning": {"epochs": 7, "batch_size": 8}}
    config = EvaluateGlueConfig.model_validate({**values, "per_task": {"rte": {"batch_size": 4}}})
    settings = config.task_config("rte")
    assert (settings.epochs, settings.batch_size) == (7, 4)
    assert config.task_config("cola") == config.fine_tuning
