"""The list of recipe keys in `--help`."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from distilray.config.base import Config, Count, InputDir
from distilray.config.recipe import apply_overrides, check_partial_values
from distilray.config.recipe_keys import format_keys, recipe_keys
from distilray.config.serving import ServeFillMaskConfig
from distilray.stages import STAGES

CONFIGS = {name: stage.config_class for name, stage in STAGES.items()} | {"serve_fill_mask": ServeFillMaskConfig}


class Oven(Config):
    heat_c: Annotated[float, Field(gt=0, le=300)] = Field(default=180.0, description="temperature in the middle")
    trays: list[Count] = Field(default=[1])


class Bread(Config):
    kind: Literal["bread"]
    grain: Literal["rye", "wheat"] = "rye"


class Bakery(Config):
    folder: InputDir
    oven: Oven = Oven()
    spare_oven: Oven | None = None
    goods: list[Bread] = Field(default=[])
    prices: dict[str, float] = Field(default={})


def test_types_bounds_defaults_and_sections_are_listed() -> None:
    assert [(key.name, key.values, key.default) for key in recipe_keys(Bakery)] == [
        ("folder", "path", None),
        ("oven.heat_c", "number > 0 and <= 300", "180.0"),
        ("oven.trays", "list of integer >= 1", "[1]"),
        ("spare_oven", "section", ""),
        ("spare_oven.heat_c", "number > 0 and <= 300", "180.0"),
        ("spare_oven.trays", "list of integer >= 1", "[1]"),
        ("goods", "list of section", "[]"),
        ("goods[].kind", "bread", None),
        ("goods[].grain", "rye | wheat", "rye"),
        ("prices", "names with number", "{}"),
    ]


def test_a_line_has_the_key_its_values_its_default_and_its_description() -> None:
    lines = format_keys(Bakery).splitlines()
    assert "  folder                        path, required" in lines
    assert "  oven.heat_c                   number > 0 and <= 300, default 180.0: temperature in the middle" in lines


@pytest.mark.parametrize("name", CONFIGS)
def test_the_help_fits_100_columns(name: str) -> None:
    assert max(map(len, format_keys(CONFIGS[name]).splitlines())) <= 100


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_the_recipe_is_a_key_or_a_section(name: str) -> None:
    listed = {key.name.partition(".")[0] for key in recipe_keys(CONFIGS[name])}
    assert listed == {*CONFIGS[name].model_fields, *(key for key in listed if key.endswith("[]"))}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_listed_default_is_accepted_as_an_override(name: str) -> None:
    for key in recipe_keys(CONFIGS[name]):
        if key.default and "[]" not in key.name and "NAME" not in key.name:
            check_partial_values(key.name, apply_overrides({}, [f"{key.name}={key.default}"]), CONFIGS[name])
