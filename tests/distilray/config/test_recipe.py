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


class Optimizer(Config):
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
    optimizer: Optimizer = Optimizer()
    sources: tuple[Source, ...] = ()
    inputs: tuple[Annotated[Folder | Table, Field(discriminator="kind")], ...] = ()
    note: str = ""


def load(folder: Path, text: str | bytes, *overrides: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_recipe(str(file), overrides, Recipe)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    """Return the error message for a recipe, which is always one line with the source."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith((f"{folder}/recipe.yaml: ", "override '"))
    return message


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("# nothing\n", ["run_dir=x"], {}),
        ("run_dir: x\noptimizer:\n  warmup_steps: 10\n", [], {"optimizer": Optimizer(warmup_steps=10)}),
        # Text in YAML 1.1.
        ("optimizer: {learning_rate: 5e-4}", ["run_dir=x"], {"optimizer": Optimizer(learning_rate=5e-4)}),
        (
            "run_dir: x\noptimizer: {warmup_steps: 10}",
            ["optimizer.learning_rate=2e-3", "seed=7"],
            {"optimizer": Optimizer(learning_rate=2e-3, warmup_steps=10), "seed": 7},
        ),
        ("run_dir: y\nseed: 1", ["seed=2", "seed=3", "run_dir=x"], {"seed": 3}),
        ("run_dir: x", ["sources=[{path: a=b}]"], {"sources": (Source(path="a=b"),)}),
    ],
)  # fmt: skip
def test_a_recipe_and_overrides_change_the_defaults(tmp_path: Path, text, overrides, expected) -> None:
    assert load(tmp_path, text, *overrides) == Recipe(run_dir="x", **expected)


DEEP = "[" * 1500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {learning_rat: 1}", "optimizer.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("optimizer: {zzz: 1}", "optimizer.zzz: unknown key; known here: learning_rate, warmup_steps"),
        ("sources: [{path: a, licens: b}]", "sources.0.licens: unknown key; did you mean 'license'?"),
        ("inputs: [{kind: table, column: a, zzz: 1}]", "zzz: unknown key; known here: column, kind"),
        ("seed: many", "seed: Input should be a valid integer"),
        ("seed: 1.5", "(got 1.5)"),
        ("optimizer: {learning_rate: -1}", "optimizer.learning_rate: Input should be greater than 0"),
        ("optimizer: 3", "optimizer: Input should be a valid dictionary"),
        ("note: 3", "note: Input should be a valid string (got 3)"),
        ("seed: a\noptimizer: {warmup_steps: b}", "(and 1 more)"),
        ("sources: [{license: CC0}]", "sources.0.path: missing; add it to the recipe"),
        ("seed: 1\nseed: 2", "line 3: duplicate key 'seed'"),
        ("optimizer:\n  warmup_steps: 1\n  warmup_steps: 2", "line 4: duplicate key 'warmup_steps'"),
        ("seed: &a 1\nnote: *a", "line 3: aliases are not allowed"),
        ("note: !!python/object/apply:os.getcwd []", "could not determine a constructor for the tag"),
        ("note: !!python/name:os.system ''", "could not determine a constructor for the tag"),
        ("note: [1", "expected ',' or ']'"),
        ("? [a, b]\n: 1", "line 2: a key must be plain text"),
        ("note: 2020-13-45", "month must be in 1..12"),
        ("note: !!int abc", "invalid value"),
        ("seed: " + "9" * 5000, "invalid value"),
        (f"note: {DEEP}", "recursion"),
        (b"note: caf\xe9", "not UTF-8 text (byte 23)"),
        (b"note: a\0b", "special characters are not allowed"),
        (b"#" * MAX_RECIPE_BYTES, "larger than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_recipe_is_refused_in_one_line_with_key_or_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    data = b"run_dir: path\n" + (text if isinstance(text, bytes) else text.encode())
    assert message in refusal(tmp_path, data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "run_dir: missing; add it to the recipe or run_dir=... to the command"),
        ("run_dir: ''", "run_dir: String should have at least 1 character"),
        ("- run_dir: x", "contains a list; write 'key: value' lines"),
        ("run_dir", "contains a str; write 'key: value' lines"),
    ],
)
def test_a_recipe_needs_keys_and_a_run_folder(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "override 'seed': write it as key=value"),
        ("=1", "override '=1': write it as key=value"),
        ("optimizer..warmup_steps=1", "override 'optimizer..warmup_steps=1': write it as key=value"),
        ("run_dir.x=1", "override 'run_dir.x=1': 'run_dir' is a value, not a section"),
        ("note=[", "override 'note=[': line 1: expected the node content"),
        ("note=2020-13-45", "override 'note=2020-13-45': invalid value (month must be in 1..12"),
        (f"note={DEEP}", "recursion"),
        ("optimizer.warmup=1", "recipe.yaml: optimizer.warmup: unknown key"),
    ],
    ids=lambda value: value[:40],
)
def test_a_wrong_override_is_refused_as_it_was_typed(tmp_path: Path, override: str, message: str) -> None:
    assert message in refusal(tmp_path, "run_dir: x", override)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_missing_recipe_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(str(tmp_path / name), [], Recipe)


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


def keys_of(annotation: Any) -> set[str]:
    """Return the keys of a config class and of the classes in its annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        return {*fields, *(key for field in fields.values() for key in keys_of(field.annotation))}
    return {key for inner in get_args(annotation) for key in keys_of(inner)}


def test_every_new_name_is_in_use_and_no_old_one_is() -> None:
    keys = {key for stage in STAGES.values() for key in keys_of(stage.config_class)} | keys_of(ServeFillMaskConfig)
    assert set(RENAMED.values()) <= keys | set(STAGES)
    assert set(RENAMED) & (keys | set(STAGES)) == {"intervals"}  # of training, and formerly of evaluate_fill_mask
