import importlib
import pkgutil
import pwd
import re
from collections.abc import Iterator
from typing import Any

import pytest

import distilray.config
from distilray.config.base import KEEP_TILDE, Config, input_locations, location_fields, locations, map_locations
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.distillation import DistillConfig
from distilray.config.evaluation import EvaluateBiasConfig, EvaluateFillMaskConfig, MeasureEfficiencyConfig
from distilray.config.glue import EvaluateGlueConfig
from distilray.config.plan import PlanConfig
from distilray.config.recipe import load_recipe
from distilray.config.report import ReportConfig
from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError

# Words in the name of a field, or of a field that is a list or mapping of models.
PATH_WORDS = re.compile(r"(^|_)(paths?|dirs?|directory|directories|files?|folders?|uris?|measured_run_dir)$")
BY_NAME = {"models", "extra_models"}
NO_PATHS = {("MeasureEfficiencyConfig", "models")}  # sections, whose own fields are checked


def config_classes() -> Iterator[type[Config]]:
    for module in pkgutil.walk_packages(distilray.config.__path__, "distilray.config."):
        importlib.import_module(module.name)
    queue = [Config]
    while queue:
        config_class = queue.pop()
        queue += config_class.__subclasses__()
        if config_class.__module__.startswith("distilray.config."):
            yield config_class


def test_every_field_that_is_named_like_a_path_has_a_path_type() -> None:
    untyped = {
        (each.__name__, name)
        for each in config_classes()
        for name in each.model_fields
        if (PATH_WORDS.search(name) or name in BY_NAME) and name not in location_fields(each)
    }
    assert untyped == NO_PATHS


def distill(**values: Any) -> DistillConfig:
    return DistillConfig(**{"run_dir": "r", "shards_dir": "s", "teacher_dir": "t"} | values)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")


CORPUS = {
    "sources": [{"path": "~/a", "index_path": "~/i"}, {"kind": "books", "path": "~/b"}],
    "decontamination": {"paths": ["~/c", "~/d"]},
    "tokenizer_path": "~/t",
}
DISTILL = {
    **{"shards_dir": "~/s", "teacher_dir": "~/t", "teacher_cache_dir": "~/c"},
    **{"estimate": {"measured_run_dir": "~/m"}, "cache": {"directory": "~/x"}},
}
PLAN = {
    "stages": {"encode_corpus": {"path": "~/e"}, "distill": {"path": "~/d"}},
    "estimate": {"measured_run_dir": "~/m"},
}
GLUE = {"model_dir": "~/m", "glue_dir": "~/g", "teacher_run_dir": "~/t", "distillation": {"teacher_run_dir": "~/f"}}
BIAS = {"models": {"teacher": "~/t", "own": "~/o"}, "crows_pairs_path": "~/c"}


@pytest.mark.parametrize(
    ("config_class", "values", "names"),
    [
        (DistillConfig, DISTILL, {"shards": "s", "teacher": "t", "teacher_cache": "c"}),
        (
            BuildCorpusConfig,
            CORPUS,
            {"source_0": "a", "source_1": "b", "evaluation_0": "c", "evaluation_1": "d", "tokenizer": "t"},
        ),
        (EvaluateBiasConfig, BIAS, {"models.teacher": "t", "models.own": "o", "crows_pairs": "c"}),
        (
            MeasureEfficiencyConfig,
            {"models": [{"name": "teacher", "model_dir": "~/t"}], "text_path": "~/x"},
            {"models.teacher": "t", "text": "x"},
        ),
        (
            ReportConfig,
            {"run_paths": ["~/a", "~/b"], "optional_paths": ["~/c"]},
            {"run_0": "a", "run_1": "b", "run_2": "c"},
        ),
        (PlanConfig, PLAN, {"encode_corpus": "e", "distill": "d", "measured": "m"}),
        (
            EvaluateFillMaskConfig,
            {"data": {"path": "~/d"}, "student_dir": "~/s", "causal": {"model_dir": "~/c"}},
            {"data": "d", "student": "s", "causal": "c"},
        ),
        (EvaluateGlueConfig, GLUE, {"model": "m", "glue": "g", "teacher": "t", "fine_tuned_teacher": "f"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_inputs_have_the_names_that_manifests_record_and_a_tilde_is_the_home_folder(
    config_class: type[Config], values: dict[str, Any], names: dict[str, str]
) -> None:
    config = config_class.model_validate({"run_dir": "~/r", **values})
    assert {name: each.value for name, each in input_locations(config).items()} == {
        name: f"/me/{path}" for name, path in names.items()
    }
    assert str(values).count("~/") + 1 == sum(each.value.startswith("/me/") for each in locations(config))


def test_a_tilde_is_the_home_folder_of_the_service() -> None:
    config = FillMaskAppConfig(model_dir="~/x", extra_models={"b": "~/y"})
    assert sorted(each.value for each in locations(config)) == ["/me/x", "/me/y"]


@pytest.mark.parametrize(
    ("value", "keep_tilde", "expected"),
    [
        ("~/runs/x", False, "/me/runs/x"),
        ("~", False, "/me"),
        ("~root/x", False, f"{pwd.getpwnam('root').pw_dir}/x"),
        ("~/x", True, "~/x"),  # expanded on another machine
    ],
)
def test_a_tilde_is_expanded_from_the_environment_unless_another_machine_expands_it(
    value: str, keep_tilde: bool, expected: str
) -> None:
    values = {"run_dir": value, "shards_dir": "s", "teacher_dir": "t"}
    assert DistillConfig.model_validate(values, context={KEEP_TILDE: keep_tilde}).run_dir == expected


@pytest.mark.parametrize("value", ["x", "./~x", "a/~/b", "/x", "s3://b/~x", "file:///~/x", "sample:encoder", "hub:a/b"])
def test_other_values_stay_as_written(value: str) -> None:
    assert distill(teacher_dir=value).teacher_dir == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run_dir=~no-such-user/x", "run_dir: ~no-such-user/x: .*no user.*./~no-such-user/x"),
        ("run_dir=~", "run_dir: empty .*~"),
        ('run_dir="a\\0b"', "run_dir: .*null byte"),
        ("run_dir=hub:a/b", "run_dir: .*path or URI.*./hub:a/b"),
        ("shards_dir=sample:encoder", "shards_dir: .*path or URI"),
        ("run_dir=''", "run_dir: .*at least 1 character"),
    ],
)
def test_a_value_that_is_not_a_location_is_reported_in_one_line_with_its_key(
    tmp_path: Any, override: str, words: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("shards_dir: s\nteacher_dir: t\nrun_dir: r\n")
    with pytest.raises(InputError, match=words) as caught:
        load_recipe(str(recipe), [override], DistillConfig)
    assert "\n" not in str(caught.value)


def test_a_recipe_in_the_home_folder_is_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("{shards_dir: s, teacher_dir: t, run_dir: r}")
    assert load_recipe("~/recipe.yaml", [], DistillConfig).run_dir == "r"


def test_locations_are_no_part_of_the_identity() -> None:
    first, second = (EvaluateBiasConfig(run_dir=path, models={"a": path}) for path in ("/x", "/y"))
    assert first.identity_hash() == second.identity_hash()


def test_numbers_of_inputs_skip_those_that_are_left_out() -> None:
    report = ReportConfig(run_dir="r", run_paths=["a"], optional_paths=["b", "c"])
    inputs = input_locations(report, lambda each: each.value != "b")
    assert {name: each.value for name, each in inputs.items()} == {"run_0": "a", "run_1": "c"}


def test_changed_locations_leave_all_other_values_unset() -> None:
    config = distill(losses={"alpha_mse": 1.0})
    changed = map_locations(config, lambda each: f"/new/{each.value}")
    assert (changed.shards_dir, changed.losses) == ("/new/s", config.losses)
    assert changed.model_fields_set == config.model_fields_set | {"cache"}
