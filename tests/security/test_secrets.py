"""Secrets of the environment and of recipes reach no file and no line of a job (S7)."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.file_search import find_files
from jobs import build_corpus, write_report
from tests.distilray.corpus.small_corpus import LENIENT

PLANTED = {
    name: f"planted-{secrets.token_hex(8)}"
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "DISTILRAY_API_KEYS",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
    )
}
WITH_PASSWORD = ["s3://AKIA:planted@bucket/x", "gs://user:planted@bucket/x", "s3://:planted@bucket/x"]


def recipe(folder: Path, **values: object) -> str:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


@pytest.mark.slow
def test_a_corpus_its_report_and_its_card_hold_no_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("There was a light on the hill. People could see it every night.")
    source = {"kind": "text", "name": "books", "path": str(tmp_path / "books")}
    corpus, report = tmp_path / "corpus", tmp_path / "report"
    built = recipe(tmp_path, run_dir=str(corpus), sources=[source], filters=LENIENT, ray={"num_cpus": 1})
    assert build_corpus.main(["--recipe", built]) == 0
    written = recipe(tmp_path, run_dir=str(report), run_paths=[str(corpus)])
    assert write_report.main(["--recipe", written]) == 0
    files = [file for folder in (corpus, report) for file in folder.rglob("*") if file.is_file()]
    assert {"manifest.json", "config.yaml", "report.html", "README.md"} <= {file.name for file in files}
    told = capfd.readouterr()
    said = b"".join(file.read_bytes() for file in files) + (told.out + told.err).encode()
    assert [name for name, value in PLANTED.items() if value.encode() in said] == []


@pytest.mark.parametrize("uri", WITH_PASSWORD)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InputError, match="a password in a URI") as caught:
        storage.filesystem(uri)
    assert "planted" not in str(caught.value)


USES: dict[str, Callable[[str], object]] = {
    "exists": storage.exists,
    "read_bytes": storage.read_bytes,
    "find_files": find_files,
    "make_folder": storage.make_folder,
    "local_path": storage.local_path,
}


@pytest.mark.parametrize("use", USES)
def test_no_use_of_such_a_uri_repeats_it(use: str) -> None:
    with pytest.raises(InputError) as caught:
        USES[use](WITH_PASSWORD[0])
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("place", ["run_dir", "path"])
def test_a_job_that_is_given_one_says_so_in_a_line_without_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    values = {"run_dir": str(tmp_path / "run"), "path": str(tmp_path), place: WITH_PASSWORD[0]}
    source = {"kind": "text", "name": "books", "path": values["path"]}
    assert build_corpus.main(["--recipe", recipe(tmp_path, run_dir=values["run_dir"], sources=[source])]) == 2
    told = capfd.readouterr()
    assert "a password in a URI" in told.err
    assert "planted" not in told.out + told.err
    assert not (tmp_path / "run").exists()
