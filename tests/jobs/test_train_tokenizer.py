from pathlib import Path

import pytest
from transformers import AutoTokenizer

from jobs import train_tokenizer
from tests.tiny.corpus import write_corpus
from tests.tiny.models import write_tokenizer
from tests.tiny.recipes import write_recipe


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose inputs are all good."""
    corpus_dir = write_corpus(tmp_path / "corpus", 30)
    return write_recipe(tmp_path, run_dir=str(tmp_path / "run"), corpus_dir=corpus_dir, vocabulary_size=300)


def refusal(capfd, *arguments):
    """The one line on stderr of a refused command."""
    assert train_tokenizer.main(["--recipe", *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_dry_run_prints_the_plan_and_writes_nothing(recipe, tmp_path, capsys):
    assert train_tokenizer.main(["--recipe", recipe, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "30 documents" in out
    assert "300 ids, lower-cased" in out
    assert not (tmp_path / "run").exists()


def test_the_folder_loads_in_transformers_and_the_same_command_again_is_skipped(recipe, tmp_path, capsys):
    assert train_tokenizer.main(["--recipe", recipe]) == 0
    assert "30 documents" in capsys.readouterr().out
    loaded = AutoTokenizer.from_pretrained(str(tmp_path / "run"))
    assert loaded("paris")["input_ids"][0] == loaded.cls_token_id == 101
    assert train_tokenizer.main(["--recipe", recipe]) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_corpus_without_a_manifest_is_one_line_that_names_it(recipe, tmp_path, capfd):
    (tmp_path / "corpus/manifest.json").unlink()
    line = refusal(capfd, recipe)
    assert f"{tmp_path}/corpus" in line
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_a_tokenizer_is_reported_in_one_line_that_names_it(tmp_path, capfd):
    (tmp_path / "teacher").mkdir()
    recipe = write_recipe(tmp_path, run_dir=str(tmp_path / "run"), teacher_dir=str(tmp_path / "teacher"))
    assert f"{tmp_path}/teacher/tokenizer.json" in refusal(capfd, recipe)


def test_a_teacher_without_a_special_token_is_reported_in_one_line_that_names_it(tmp_path, capfd):
    file = Path(write_tokenizer(tmp_path / "teacher")) / "tokenizer.json"
    file.write_text(file.read_text().replace("[MASK]", "[HIDE]"))
    recipe = write_recipe(tmp_path, run_dir=str(tmp_path / "run"), teacher_dir=str(tmp_path / "teacher"))
    capfd.readouterr()  # what writing the model printed
    assert "the tokenizer has no [MASK]" in refusal(capfd, recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["vocabulary_size=65537"], "vocabulary_size"),
        (["vocabulary_size=100"], "vocabulary_size"),
        (["sample_fraction=0"], "sample_fraction"),
        (["sample_fraction=1e-9"], "none of the 30 documents is in the sample"),
        (["teacher_dir=somewhere"], "set either corpus_dir, to train a tokenizer, or teacher_dir"),
        (["vocab_size=300"], "did you mean 'vocabulary_size'"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(recipe, capfd, overrides, reason):
    assert reason in refusal(capfd, recipe, *overrides)
