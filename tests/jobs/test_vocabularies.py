"""Shards of one vocabulary and a model of another: refused before anything starts, in every job that takes both."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs import cache_teacher, distill, evaluate_fill_mask, evaluate_glue, export_model, train_teacher
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.search import write_next_sentence_task
from tests.tiny.shards import write_shards

JOBS: list[tuple[ModuleType, dict[str, Any]]] = [
    (train_teacher, {"encoder_dir": "model"}),
    (cache_teacher, {"teacher_dir": "model", "scaling": {"gpus_per_task": 0}}),
    (distill, {"teacher_dir": "model"}),
    (evaluate_fill_mask, {"teacher_dir": "model", "student_dir": "model", "device": "cpu"}),
    (export_model, {"model_dir": "model", "variants": ["bf16"]}),
]

pytestmark = pytest.mark.usefixtures("one_thread")


def change_tokenizer(folder: Path, change: Callable[[dict[str, int]], None]) -> None:
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    change(values["model"]["vocab"])
    file.write_text(json.dumps(values))


def add_token(vocabulary: dict[str, int]) -> None:
    vocabulary["zebra"] = len(vocabulary)


def rename_token(vocabulary: dict[str, int]) -> None:
    token = next(token for token in vocabulary if token.isalpha() and len(token) > 2)
    vocabulary["zebra"] = vocabulary.pop(token)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the shards of its tokenizer, and shards of a larger and of another vocabulary of the same size."""
    folder = tmp_path_factory.mktemp("vocabularies")
    write_teacher(folder / "model", write_tokenizer(folder / "own"), layers=6)
    write_shards(folder / "own-shards", str(folder / "own"))
    for name, change in (("larger", add_token), ("renamed", rename_token)):
        change_tokenizer(Path(write_tokenizer(folder / name)), change)
        write_shards(folder / f"{name}-shards", str(folder / name))
    return folder


def command(work: Path, tmp_path: Path, values: dict[str, Any], shards: str) -> list[str]:
    named = {key: str(work / value) if value == "model" else value for key, value in values.items()}
    return ["--recipe", write_recipe(tmp_path, run_dir=str(tmp_path / "run"), shards_dir=str(work / shards), **named)]


@pytest.mark.parametrize("shards", ["larger", "renamed"])
@pytest.mark.parametrize(("job", "values"), JOBS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("arguments", [["--dry-run"], []], ids=["plan", "run"])
def test_shards_of_another_vocabulary_are_reported_in_one_line_that_names_both(
    work: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    job: ModuleType,
    values: dict[str, Any],
    shards: str,
    arguments: list[str],
) -> None:
    assert job.main([*command(work, tmp_path, values, f"{shards}-shards"), *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    own = len(json.loads((work / "own/tokenizer.json").read_text())["model"]["vocab"])
    assert f"{work}/{shards}-shards: encoded with tokenizer" in line
    assert f"of {own + (shards == 'larger')} ids, and {work}/model has" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("job", "values"), JOBS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_tokenizer_with_more_ids_than_its_model_is_reported_in_one_line(
    work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], job: ModuleType, values: dict[str, Any]
) -> None:
    shutil.copytree(work / "model", tmp_path / "model")
    change_tokenizer(tmp_path / "model", add_token)
    own = {key: str(tmp_path / "model") if value == "model" else value for key, value in values.items()}
    assert job.main([*command(work, tmp_path, own, "larger-shards"), "--dry-run"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "its config.json a vocab_size of" in line


def test_a_model_with_rows_beyond_its_tokenizer_trains_on_its_shards(
    work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Published vocabularies are padded to a multiple of 8."""
    from distilray.models.masked_lm import load_masked_lm

    model = load_masked_lm(str(work / "model"))
    model.resize_token_embeddings(model.config.vocab_size + 7, mean_resizing=False)
    model.cls.predictions.bias.data.zero_()
    model.save_pretrained(tmp_path / "padded")
    shutil.copy(work / "own/tokenizer.json", tmp_path / "padded")
    values = {"encoder_dir": str(tmp_path / "padded")}
    assert train_teacher.main([*command(work, tmp_path, values, "own-shards"), "--dry-run"]) == 0


def test_a_fine_tuned_teacher_of_another_vocabulary_is_reported_in_one_line(
    work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_next_sentence_task(tmp_path / "glue")
    shutil.copytree(work / "model", tmp_path / "teacher/models/follows")
    change_tokenizer(tmp_path / "teacher/models/follows", rename_token)
    recipe = write_recipe(
        tmp_path,
        run_dir=str(tmp_path / "run"),
        model_dir=str(work / "model"),
        glue_dir=str(tmp_path / "glue"),
        tasks=["follows"],
        distillation={"teacher_run_dir": str(tmp_path / "teacher")},
    )
    assert evaluate_glue.main(["--recipe", recipe, "--dry-run"]) == 2
    assert "its tokenizer has" in capfd.readouterr().err
