"""Input that this user may not read is one line that names it and exit code 2, for every job."""

import importlib
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.distilray.permissions import forbidden
from tests.tiny.corpus import write_corpus
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.shards import write_shards


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = write_tokenizer(folder / "tokenizer")
    write_teacher(folder / "teacher", tokenizer)
    write_corpus(folder / "corpus")
    write_shards(folder / "shards", tokenizer)
    (folder / "dev.json").write_text("{}")
    return folder


DISTILL = ["distill", "shards_dir={0}/shards", "teacher_dir={0}/teacher", "scaling.use_gpu=false"]
TOKENIZER = ["train_tokenizer", "corpus_dir={0}/corpus"]
ENCODE = ["encode_corpus", "corpus_dir={0}/corpus", "tokenizer_dir={0}/tokenizer", "mode=paper"]
BIAS = ["evaluate_bias", "models={{a: '{0}/teacher'}}", "stereoset_path={0}/dev.json"]


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        (DISTILL, "teacher/config.json"),
        (DISTILL, "teacher"),
        (DISTILL, "shards/manifest.json"),
        (DISTILL, "shards"),
        (TOKENIZER, "corpus/manifest.json"),
        (ENCODE, "tokenizer/tokenizer.json"),
        (BIAS, "dev.json"),
        (BIAS, "teacher/model.safetensors"),
        (BIAS, "teacher/tokenizer.json"),
    ],
)
@pytest.mark.parametrize("is_dry", [True, False], ids=["dry run", "run"])
def test_input_without_read_permission_is_reported_in_one_line(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str], closed: str, *, is_dry: bool
) -> None:
    (recipe := tmp_path / "recipe.yaml").write_text(f"run_dir: {tmp_path}/run")
    job, *overrides = (part.format(inputs) for part in command)
    main = importlib.import_module(f"jobs.{job}").main
    with forbidden(inputs / closed):
        code = main(["--recipe", str(recipe), *(["--dry-run"] if is_dry else []), *overrides])
    if is_dry and closed.endswith("safetensors"):
        return  # weights are read by the run only
    lines = capfd.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1), lines
    assert f"{inputs / closed}" in lines[0]
    assert "ermission denied" in lines[0]


@pytest.mark.parametrize("target", ["recipe.yaml", "run", ""])
def test_a_recipe_or_run_folder_without_permission_is_reported_in_one_line(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], target: str
) -> None:
    (recipe := tmp_path / "recipe.yaml").write_text(f"run_dir: {tmp_path}/run/x")
    (tmp_path / "run").mkdir()
    main = importlib.import_module("jobs.train_tokenizer").main
    with ExitStack() as stack:
        stack.enter_context(forbidden(tmp_path / target, 0o500 if target == "run" else 0))
        code = main(["--recipe", str(recipe), f"teacher_dir={inputs}/teacher"])
    lines = capfd.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1), lines
    assert str(tmp_path / target) in lines[0]
