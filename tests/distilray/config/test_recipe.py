from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field

from distilray.config.base import Config, SeededConfig
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.distillation import DistillConfig
from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.config.recipe import MAX_RECIPE_BYTES, RENAMED, RecipeError, check_partial_values, load_recipe
from distilray.config.serving import ServeFillMaskConfig
from distilray.stages import STAGES


class Optimiser(Config):
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup_steps: int = 0


class Source(Config):
    path: str
    license: str = "CC0"


class Folder(Config):
    kind: Literal["folder"]
    path: str


class Table(Config):
    kind: Literal["table"]
    column: str


class Recipe(SeededConfig):
    optimiser: Optimiser = Optimiser()
    sources: tuple[Source, ...] = ()
    inputs: tuple[Annotated[Folder | Table, Field(discriminator="kind")], ...] = ()
    note: str = ""


def load(folder: Path, text: str | bytes, *overrides: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_recipe(str(file), overrides, Recipe)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    """The message that a recipe is refused with, which is always one line."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_recipe_holds_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "run_dir: runs/x\noptimiser:\n  warmup_steps: 10\n")
    assert (config.run_dir, config.optimiser.warmup_steps, config.optimiser.learning_rate) == ("runs/x", 10, 1e-4)


def test_a_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 reads 5e-4 as text.
    assert load(tmp_path, "run_dir: x\noptimiser: {learning_rate: 5e-4}").optimiser.learning_rate == 5e-4


def test_an_unknown_key_is_refused_with_the_closest_known_one(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run_dir: x\noptimiser: {learning_rat: 1}")
    assert "recipe.yaml: optimiser.learning_rat: unknown key; did you mean 'learning_rate'?" in message


def test_an_unknown_key_like_no_other_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run_dir: x\noptimiser: {zzz: 1}")
    assert "known here: learning_rate, warmup_steps" in message


def test_an_unknown_key_inside_a_list_is_refused_with_the_closest_known_one(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run_dir: x\nsources: [{path: a, licens: b}]")
    assert "sources.0.licens: unknown key; did you mean 'license'?" in message


@pytest.mark.parametrize(
    ("config_class", "values", "key", "new"),
    [
        (DistillConfig, {"rhythm": {}}, "rhythm", "intervals"),
        (DistillConfig, {"faults": {}}, "faults", "fault_tolerance"),
        (DistillConfig, {"student": {"initialisation": "random"}}, "student.initialisation", "initialization"),
        (EvaluateFillMaskConfig, {"intervals": {}}, "intervals", "bootstrap"),
        (BuildCorpusConfig, {"part_mb": 1}, "part_mb", "chunk_mb"),
    ],
)
def test_a_key_of_an_earlier_version_is_an_error_that_names_the_new_one(config_class, values, key, new) -> None:
    with pytest.raises(RecipeError, match=rf"x: {key}: unknown key; renamed to '{new}'"):
        check_partial_values("x", values, config_class)


def test_every_new_name_is_in_use_and_every_old_one_is_not() -> None:
    stages = {name for name, stage in STAGES.items()}
    keys = {key for stage in STAGES.values() for key in keys_of(stage.config_class)} | keys_of(ServeFillMaskConfig)
    assert set(RENAMED.values()) <= keys | stages
    assert set(RENAMED) & (keys | stages) == {"intervals"}  # of training, and formerly of evaluate_fill_mask


def keys_of(annotation: Any) -> set[str]:
    """The keys of a config class and of the classes in its annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        return {*fields, *(key for field in fields.values() for key in keys_of(field.annotation))}
    return {key for inner in get_args(annotation) for key in keys_of(inner)}


def test_an_unknown_key_of_one_kind_of_several_is_refused_with_the_keys_of_that_kind(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run_dir: x\ninputs: [{kind: table, column: a, zzz: 1}]")
    assert message.endswith("zzz: unknown key; known here: column, kind")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run_dir: x\nseed: many", "seed: Input should be a valid integer"),
        ("run_dir: x\nseed: 1.5", "(got 1.5)"),
        ("run_dir: x\noptimiser: {learning_rate: -1}", "optimiser.learning_rate: Input should be greater than 0"),
        ("run_dir: x\noptimiser: 3", "optimiser: Input should be a valid dictionary"),
        ("run_dir: 3", "run_dir: Input should be a valid string (got 3)"),
        ("run_dir: ''", "run_dir: String should have at least 1 character"),
    ],
)
def test_a_value_of_a_wrong_type_or_size_is_refused_with_its_key(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


def test_further_problems_are_counted(tmp_path: Path) -> None:
    assert refusal(tmp_path, "run_dir: x\nseed: a\noptimiser: {warmup_steps: b}").endswith("(and 1 more)")


def test_a_missing_value_is_refused_with_the_way_to_give_it(tmp_path: Path) -> None:
    assert "run_dir: missing; add it to the recipe or run_dir=... to the command" in refusal(tmp_path, "seed: 1")


def test_a_value_that_is_missing_inside_a_list_is_to_be_added_to_the_recipe(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run_dir: x\nsources: [{license: CC0}]")
    assert message.endswith("sources.0.path: missing; add it to the recipe")


def test_an_empty_recipe_is_one_that_takes_every_default(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n", "run_dir=x") == Recipe(run_dir="x")


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_missing_recipe_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(str(tmp_path / name), [], Recipe)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nseed: 2", "line 2: duplicate key 'seed'"),
        ("run_dir: x\noptimiser:\n  warmup_steps: 1\n  warmup_steps: 2", "line 4: duplicate key 'warmup_steps'"),
        ("run_dir: &a x\nnote: *a", "line 2: aliases are not allowed"),
        ("run_dir: !!python/object/apply:os.getcwd []", "could not determine a constructor for the tag"),
        ("run_dir: !!python/name:os.system ''", "could not determine a constructor for the tag"),
        ("- run_dir: x", "contains a list; write 'key: value' lines"),
        ("run_dir", "contains a str; write 'key: value' lines"),
        ("run_dir: [1", "line 1: expected ',' or ']'"),
        ("? [a, b]\n: 1", "line 1: a key must be plain text"),
        ("note: 2020-13-45", "month must be in 1..12"),
        ("note: !!int abc", "invalid value"),
        ("seed: " + "9" * 5000, "invalid value"),
        ("note: " + "[" * 5000, "recursion"),
        (b"run_dir: caf\xe9", "not UTF-8 text (byte 12)"),
        (b"run_dir: a\0b", "special characters are not allowed"),
        (b"#" * (MAX_RECIPE_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_rejected_with_the_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    message = refusal(tmp_path, text)
    assert told in message
    assert "recipe.yaml: " in message


def test_an_override_changes_one_value_of_a_section(tmp_path: Path) -> None:
    config = load(tmp_path, "run_dir: x\noptimiser: {warmup_steps: 10}", "optimiser.learning_rate=2e-3", "seed=7")
    assert config.optimiser == Optimiser(learning_rate=2e-3, warmup_steps=10)
    assert config.seed == 7


def test_the_last_override_of_a_key_counts(tmp_path: Path) -> None:
    assert load(tmp_path, "run_dir: x\nseed: 1", "seed=2", "seed=3").seed == 3


def test_the_value_of_an_override_is_yaml(tmp_path: Path) -> None:
    assert load(tmp_path, "run_dir: x", "sources=[{path: a=b}]").sources == (Source(path="a=b"),)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", "write it as key=value"),
        ("=1", "write it as key=value"),
        ("optimiser..warmup_steps=1", "write it as key=value"),
        ("run_dir.x=1", "'run_dir' is a value, not a section"),
        ("note=[", "line 1: expected the node content"),
        ("note=2020-13-45", "month must be in 1..12"),
        ("note=" + "[" * 5000, "recursion"),
    ],
)
def test_a_broken_override_is_refused_as_it_was_typed(tmp_path: Path, override: str, told: str) -> None:
    message = refusal(tmp_path, "run_dir: x", override)
    assert message.startswith(f"override '{override}': ")
    assert told in message


def test_an_unknown_key_of_an_override_is_refused(tmp_path: Path) -> None:
    assert "optimiser.warmup: unknown key" in refusal(tmp_path, "run_dir: x", "optimiser.warmup=1")
