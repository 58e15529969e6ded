"""The stage that writes the recipes for a text."""

import json
from pathlib import Path

import pytest
import yaml

from distilray.config.own_text import ChooseSettingsConfig
from distilray.errors import InputError
from distilray.operations.own_text.choose_settings import choose, generated_recipes, plan_settings
from distilray.stages import run_stage
from tests.distilray.corpus.test_survey import DOCUMENTS

STAGE_NAMES = ["build_corpus", "encode_corpus", "train_teacher", "distill", "evaluate_fill_mask", "write_report"]


@pytest.fixture
def config(tmp_path: Path, bert_dir: str) -> ChooseSettingsConfig:
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return ChooseSettingsConfig(
        run_dir=str(tmp_path / "settings"), text_path=str(tmp_path / "stories.jsonl"), model_dir=bert_dir, num_cpus=2
    )


def test_the_stage_writes_the_recipes_that_the_dry_run_announces(config, tmp_path):
    run_stage("choose_settings", **config.model_dump(exclude_defaults=True))
    written = {
        f"recipes/{file.name}": yaml.safe_load(file.read_text()) for file in (tmp_path / "settings/recipes").iterdir()
    }
    announced = {name: values for name, (values, _) in generated_recipes(config).items()}
    assert written == announced
    assert {Path(name).stem for name in announced} == set(STAGE_NAMES)


def test_every_line_of_a_recipe_has_its_reason(config, tmp_path):
    run_stage("choose_settings", **config.model_dump(exclude_defaults=True))
    for file in (tmp_path / "settings/recipes").iterdir():
        assert all("  # " in line for line in file.read_text().splitlines())


def test_the_plan_describes_text_model_and_machine(config):
    plan = plan_settings(config)
    assert "1 jsonl (text in column 'text')" in str(plan["text"])
    assert str(plan["language"]).startswith("en (100%")
    assert "2 x CPU core" in str(plan["machine"])
    assert str(plan["distill.max_steps"]).endswith(")")


def test_gpus_of_the_recipe_are_used(config):
    recipes = choose(config.model_copy(update={"num_gpus": 8})).recipes
    assert recipes["distill"]["scaling"].value["num_workers"] == 8


def test_the_language_can_be_set(config):
    recipes = choose(config.model_copy(update={"language": "de"})).recipes
    assert recipes["build_corpus"]["sources"].value[0]["language"] == "de"


def test_a_tokenizer_that_does_not_know_the_letters_is_refused(config, tmp_path):
    text = "Никто в деревне не помнит, когда последний поезд остановился на станции. Зима была мягкой."
    (tmp_path / "stories.jsonl").write_text(f"{json.dumps({'text': text})}\n" * 5)
    with pytest.raises(InputError, match=r"does not know \d+% of the text \(ru\)"):
        choose(config.model_copy(update={"num_cpus": 3}))
