"""Secrets in the environment and in recipes do not appear in files and output of jobs (S7)."""

import pytest
import yaml

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.file_search import find_files
from jobs import build_corpus, write_report
from tests.tiny.extraction import LENIENT

SECRETS = (
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
WITH_PASSWORD = ["s3://AKIA:planted@bucket/x", "gs://user:planted@bucket/x", "s3://:planted@bucket/x"]


def recipe(folder, **values):
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


@pytest.mark.slow
def test_a_corpus_its_report_and_its_card_contain_no_secret_of_the_environment(tmp_path, monkeypatch, capfd):
    for name in SECRETS:
        monkeypatch.setenv(name, f"planted-{name.lower()}-value")
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
    output = capfd.readouterr()
    content = b"".join(file.read_bytes() for file in files) + (output.out + output.err).encode()
    assert [name for name in SECRETS if f"planted-{name.lower()}-value".encode() in content] == []


@pytest.mark.parametrize("uri", WITH_PASSWORD)
@pytest.mark.parametrize(
    "function",
    [storage.filesystem, storage.exists, storage.read_bytes, storage.make_folder, storage.local_path, find_files],
    ids=lambda function: function.__name__,
)
def test_a_password_in_a_uri_is_rejected_and_not_repeated(function, uri):
    with pytest.raises(InputError, match=r"a password in a URI|object store") as caught:
        function(uri)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("key", ["run_dir", "path"])
def test_a_job_rejects_such_a_uri_in_one_line_without_repeating_it(tmp_path, capfd, key):
    values = {"run_dir": str(tmp_path / "run"), "path": str(tmp_path), key: WITH_PASSWORD[0]}
    source = {"kind": "text", "name": "books", "path": values["path"]}
    assert build_corpus.main(["--recipe", recipe(tmp_path, run_dir=values["run_dir"], sources=[source])]) == 2
    output = capfd.readouterr()
    assert "a password in a URI" in output.err
    assert len(output.err.splitlines()) == 1
    assert "planted" not in output.out + output.err
    assert not (tmp_path / "run").exists()
