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
        found = queue.pop()
        queue += found.__subclasses__()
        if found.__module__.startswith("distilray.config."):
            yield found


def test_every_field_that_is_named_like_a_path_has_a_path_type() -> None:
    untyped = {
        (found.__name__, name)
        for found in config_classes()
        for name in found.model_fields
        if (PATH_WORDS.search(name) or name in BY_NAME) and name not in location_fields(found)
    }
    assert untyped == NO_PATHS


def distill(**values: Any) -> DistillConfig:
    return DistillConfig(**{"run_dir": "r", "shards_dir": "s", "teacher_dir": "t"} | values)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")


@pytest.mark.parametrize(
    "config",
    [
        distill(
            run_dir="~/x", teacher_cache_dir="~/x", estimate={"measured_run_dir": "~/x"}, cache={"directory": "~/x"}
        ),
        BuildCorpusConfig.model_validate(
            {
                "run_dir": "~/x",
                "sources": [{"path": "~/x", "index_path": "~/x"}, {"kind": "books", "path": "~/x"}],
                "decontamination": {"paths": ["~/x"]},
                "tokenizer_path": "~/x",
            }
        ),
        EvaluateBiasConfig(run_dir="~/x", models={"a": "~/x"}, stereoset_path="~/x"),
        ReportConfig(run_dir="~/x", run_paths=["~/x"], optional_paths=["~/x"]),
        FillMaskAppConfig(model_dir="~/x", extra_models={"b": "~/x"}),
        PlanConfig.model_validate(
            {"run_dir": "~/x", "stages": {"encode_corpus": {"path": "~/x"}, "distill": {"path": "~/x"}}}
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_tilde_is_the_home_folder_everywhere(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [each.value for each in locations(config) if each.value.endswith("/x")]
    assert written
    assert not [value for value in written if not value.startswith("/")]


def test_a_tilde_is_expanded_by_the_environment() -> None:
    assert distill(run_dir="~/runs/x").run_dir == "/me/runs/x"
    assert distill(run_dir="~").run_dir == "/me"


def test_a_tilde_with_a_user_is_the_home_of_that_user() -> None:
    assert distill(run_dir="~root/x").run_dir == f"{pwd.getpwnam('root').pw_dir}/x"


def test_the_home_folder_stays_as_written_when_another_machine_expands_it() -> None:
    values = {"run_dir": "~/x", "shards_dir": "s", "teacher_dir": "t"}
    assert DistillConfig.model_validate(values, context={KEEP_TILDE: True}).run_dir == "~/x"


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


def test_a_recipe_is_found_in_the_home_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("{shards_dir: s, teacher_dir: t, run_dir: r}")
    assert load_recipe("~/recipe.yaml", [], DistillConfig).run_dir == "r"


def test_locations_are_no_part_of_the_identity() -> None:
    here, there = (EvaluateBiasConfig(run_dir=place, models={"a": place}) for place in ("/x", "/y"))
    assert here.identity_hash() == there.identity_hash()


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            distill(teacher_cache_dir="c", estimate={"measured_run_dir": "m"}, cache={"directory": "x"}),
            {"shards": "s", "teacher": "t", "teacher_cache": "c"},
        ),
        (
            BuildCorpusConfig.model_validate(
                {
                    "run_dir": "r",
                    "sources": [{"path": "a", "index_path": "i"}, {"kind": "books", "path": "b"}],
                    "decontamination": {"paths": ["c", "d"]},
                    "tokenizer_path": "t",
                }
            ),
            {"source_0": "a", "source_1": "b", "evaluation_0": "c", "evaluation_1": "d", "tokenizer": "t"},
        ),
        (
            EvaluateBiasConfig(run_dir="r", models={"teacher": "t", "own": "o"}, crows_pairs_path="c"),
            {"models.teacher": "t", "models.own": "o", "crows_pairs": "c"},
        ),
        (
            MeasureEfficiencyConfig.model_validate(
                {"run_dir": "r", "models": [{"name": "teacher", "model_dir": "t"}], "text_path": "x"}
            ),
            {"models.teacher": "t", "text": "x"},
        ),
        (
            ReportConfig(run_dir="r", run_paths=["a", "b"], optional_paths=["c"]),
            {"run_0": "a", "run_1": "b", "run_2": "c"},
        ),
        (
            PlanConfig.model_validate(
                {
                    "run_dir": "r",
                    "stages": {"encode_corpus": {"path": "e"}, "distill": {"path": "d"}},
                    "estimate": {"measured_run_dir": "m"},
                }
            ),
            {"encode_corpus": "e", "distill": "d", "measured": "m"},
        ),
        (
            EvaluateFillMaskConfig.model_validate(
                {"run_dir": "r", "data": {"path": "d"}, "student_dir": "s", "causal": {"model_dir": "c"}}
            ),
            {"data": "d", "student": "s", "causal": "c"},
        ),
        (
            EvaluateGlueConfig.model_validate(
                {
                    "run_dir": "r",
                    "model_dir": "m",
                    "glue_dir": "g",
                    "teacher_run_dir": "t",
                    "distillation": {"teacher_run_dir": "f"},
                }
            ),
            {"model": "m", "glue": "g", "teacher": "t", "fine_tuned_teacher": "f"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inputs_have_the_names_that_manifests_record(config: Config, names: dict[str, str]) -> None:
    assert {name: each.value for name, each in input_locations(config).items()} == names


def test_numbers_of_inputs_skip_those_that_are_left_out() -> None:
    report = ReportConfig(run_dir="r", run_paths=["a"], optional_paths=["b", "c"])
    found = input_locations(report, lambda each: each.value != "b")
    assert {name: each.value for name, each in found.items()} == {"run_0": "a", "run_1": "c"}


def test_changed_locations_leave_all_other_values_as_unset_as_they_were() -> None:
    config = distill(losses={"alpha_mse": 1.0})
    changed = map_locations(config, lambda each: f"/new/{each.value}")
    assert (changed.shards_dir, changed.losses) == ("/new/s", config.losses)
    assert changed.model_fields_set == config.model_fields_set | {"cache"}
