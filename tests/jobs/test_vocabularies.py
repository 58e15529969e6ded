"""Jobs that read shards and a model reject shards that were encoded with another tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilray.models.masked_lm import load_masked_lm
from tests.jobs.commands import run_job
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.search import write_next_sentence_task
from tests.tiny.shards import write_shards

# Recipes by job; MODEL stands for the folder of the model.
RECIPES: dict[str, dict[str, Any]] = {
    "train_teacher": {"encoder_dir": "MODEL"},
    "cache_teacher": {"teacher_dir": "MODEL", "scaling": {"gpus_per_task": 0}},
    "distill": {"teacher_dir": "MODEL"},
    "evaluate_fill_mask": {"teacher_dir": "MODEL", "student_dir": "MODEL", "device": "cpu"},
    "export_model": {"model_dir": "MODEL", "variants": ["bf16"]},
}

pytestmark = pytest.mark.usefixtures("one_thread")


def add_token(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["zebra"] = len(tokenizer["model"]["vocab"])


def rename_token(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    token = next(token for token in vocabulary if token.isalpha() and len(token) > 2)
    vocabulary["zebra"] = vocabulary.pop(token)


def keep_case(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"]["lowercase"] = False


CHANGES = {"larger": add_token, "renamed": rename_token, "cased": keep_case}


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, shards with its tokenizer, and shards with changed tokenizers."""
    folder = tmp_path_factory.mktemp("vocabularies")
    write_teacher(folder / "model", write_tokenizer(folder / "own"), layers=6)
    write_shards(folder / "own-shards", str(folder / "own"))
    for name, change in CHANGES.items():
        change_tokenizer(Path(write_tokenizer(folder / name)), change)
        write_shards(folder / f"{name}-shards", str(folder / name))
    return folder


def run(job: str, tmp_path: Path, shards_dir: Path, model: Path, *arguments: str) -> int:
    recipe = {key: str(model) if value == "MODEL" else value for key, value in RECIPES[job].items()}
    return run_job(job, tmp_path / "run", *arguments, shards_dir=str(shards_dir), **recipe)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("job", RECIPES)
def test_shards_of_another_tokenizer_are_reported_in_one_line_that_names_both(
    job: str, change: str, folder: Path, tmp_path: Path, error_line: Callable[[int], str]
) -> None:
    own = len(json.loads((folder / "own/tokenizer.json").read_text())["model"]["vocab"])
    for arguments in (["--dry-run"], []):
        line = error_line(run(job, tmp_path, folder / f"{change}-shards", folder / "model", *arguments))
        assert f"{folder}/{change}-shards: encoded with tokenizer" in line
        assert f"of {own + (change == 'larger')} ids, and {folder}/model has" in line
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("job", RECIPES)
def test_a_tokenizer_with_more_ids_than_its_model_is_reported_in_one_line(
    job: str, folder: Path, tmp_path: Path, error_line: Callable[[int], str]
) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    change_tokenizer(tmp_path / "model", add_token)
    line = error_line(run(job, tmp_path, folder / "larger-shards", tmp_path / "model", "--dry-run"))
    assert "its config.json a vocab_size of" in line


def test_a_model_with_padded_embeddings_can_be_trained_on_its_shards(folder: Path, tmp_path: Path) -> None:
    """Published models have embeddings for a multiple of 8 ids."""
    model = load_masked_lm(str(folder / "model"))
    model.resize_token_embeddings(model.config.vocab_size + 7, mean_resizing=False)
    model.cls.predictions.bias.data.zero_()
    model.save_pretrained(tmp_path / "padded")
    shutil.copy(folder / "own/tokenizer.json", tmp_path / "padded")
    assert run("train_teacher", tmp_path, folder / "own-shards", tmp_path / "padded", "--dry-run") == 0


def test_a_fine_tuned_teacher_with_another_vocabulary_is_reported_in_one_line(
    folder: Path, tmp_path: Path, error_line: Callable[[int], str]
) -> None:
    write_next_sentence_task(tmp_path / "glue")
    shutil.copytree(folder / "model", tmp_path / "teacher/models/follows")
    change_tokenizer(tmp_path / "teacher/models/follows", rename_token)
    recipe = {
        "model_dir": str(folder / "model"),
        "glue_dir": str(tmp_path / "glue"),
        "tasks": ["follows"],
        "distillation": {"teacher_run_dir": str(tmp_path / "teacher")},
    }
    code = run_job("evaluate_glue", tmp_path / "run", "--dry-run", **recipe)
    assert "its tokenizer has" in error_line(code)
