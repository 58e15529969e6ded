"""The stage that writes the recipes for a text."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer

from distilray.config.own_text import ChooseSettingsConfig
from distilray.config.pipeline import load_pipeline
from distilray.errors import InputError
from distilray.models.heads import decoder
from distilray.models.masked_lm import load_masked_lm, save_model
from distilray.operations.own_text.choose_settings import choose, generated_recipes, plan_settings
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.stages import STAGES, run_stage
from tests.distilray.corpus.test_survey import DOCUMENTS

PIPELINES = Path(__file__).parents[4] / "jobs" / "pipelines"
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
    assert "1 jsonl file (text in column 'text')" in str(plan["text"])
    assert str(plan["language"]).startswith("en (100%")
    assert "2 x CPU core" in str(plan["machine"])
    assert str(plan["distill.max_steps"]).endswith(")")


def test_gpus_of_the_recipe_are_used(config):
    recipes = choose(config.model_copy(update={"num_gpus": 8})).recipes
    assert recipes["distill"]["scaling"].value["num_workers"] == 8


def test_the_language_can_be_set(config):
    recipes = choose(config.model_copy(update={"language": "de"})).recipes
    assert recipes["build_corpus"]["sources"].value[0]["language"] == "de"


def write_lines(folder, texts):
    (folder / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"{folder}/other.jsonl"


RUSSIAN = "Никто в деревне не помнит, когда последний поезд остановился на станции. Зима была мягкой."


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([RUSSIAN] * 5, r"does not know \d+% of the text \(ru\)"),
        (DOCUMENTS[:20], "about 20 usable documents .*at least 30 documents and"),
    ],
    ids=["another script", "too little text"],
)
def test_a_text_that_cannot_be_used_is_refused(config, tmp_path, texts, message):
    with pytest.raises(InputError, match=message):
        choose(config.model_copy(update={"text_path": write_lines(tmp_path, texts)}))


def test_a_tokenizer_that_encodes_words_with_their_neighbors_is_refused(config, tmp_path, bert_dir):
    model = shutil.copytree(bert_dir, tmp_path / "model")
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.add_tokens(["the river"])
    tokenizer.save(f"{model}/tokenizer.json")
    with pytest.raises(InputError, match="word by word"):
        choose(config.model_copy(update={"model_dir": str(model)}))


@pytest.fixture
def with_head(tmp_path, bert_dir):
    """The model with a bias, as training gives it."""
    model = load_masked_lm(bert_dir)
    decoder(model).bias.data += 0.1
    (tmp_path / "trained").mkdir()
    save_model(model, tmp_path / "trained", read_tokenizer(bert_dir))
    return str(tmp_path / "trained")


def test_without_adaptation_the_model_needs_a_head(config, with_head):
    as_it_is = config.model_copy(update={"adapt_teacher": False})
    with pytest.raises(InputError, match=r"no masked-LM head.*adapt it"):
        choose(as_it_is)
    recipes = choose(as_it_is.model_copy(update={"model_dir": with_head})).recipes
    assert "train_teacher" not in recipes


def test_the_pipeline_without_adaptation_distills_the_model_itself(config, with_head, tmp_path):
    arguments = [f"text={config.text_path}", f"model={with_head}", f"folder={tmp_path}/runs"]
    pipeline = load_pipeline(f"{PIPELINES}/mine-without-adaptation.yaml", arguments, STAGES, recipes=PIPELINES)
    choose_settings, *others = pipeline.stages
    run_stage("choose_settings", **choose_settings.config().model_dump(exclude_defaults=True))
    configs = {stage.name: stage.config() for stage in others}
    assert "train_teacher" not in configs
    assert configs["distill"].teacher_dir == configs["evaluate_fill_mask"].teacher_dir == with_head
