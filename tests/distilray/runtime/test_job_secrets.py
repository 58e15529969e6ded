import os
from pathlib import Path

import pytest

from distilray.errors import InputError
from distilray.runtime.environment import load_secrets, read_secrets, worker_setup_hook

VARIABLE = "DISTILRAY_SECRETS_PATH"


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_a_file_has_a_variable_on_each_line(tmp_path):
    text = (
        "# of team A\n\nHF_TOKEN=hf_1=2#3\nexport WANDB_API_KEY='a b'\nMLFLOW_TRACKING_URI=\"https://u:p@host\"\nE=\n"
    )
    assert read_secrets(write(tmp_path / "secrets", text)) == {
        "HF_TOKEN": "hf_1=2#3",
        "WANDB_API_KEY": "a b",
        "MLFLOW_TRACKING_URI": "https://u:p@host",
        "E": "",
    }


def test_a_folder_is_read_as_kubernetes_mounts_a_secret(tmp_path):
    (tmp_path / "..2026_11_29").mkdir()
    write(tmp_path / "..2026_11_29" / "HF_TOKEN", "hf_1\n")
    (tmp_path / "..data").symlink_to("..2026_11_29")
    (tmp_path / "HF_TOKEN").symlink_to("..data/HF_TOKEN")
    assert read_secrets(tmp_path) == {"HF_TOKEN": "hf_1"}


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("A=1\nplanted\n", 0o600, "secrets: line 2: write NAME=VALUE"),
        ("A B=planted\n", 0o600, "secrets: line 1: write NAME=VALUE"),
        ("# planted\n", 0o600, "secrets: empty"),
        (b"A=planted\xff\n", 0o600, "secrets: not a UTF-8 text file"),
        (b"A=planted\0\n", 0o600, "secrets: not a UTF-8 text file"),
        ("A=planted\n", 0o640, "run `chmod 600"),
        ("A=planted\n", 0o604, "run `chmod 600"),
    ],
    ids=["no equals sign", "name", "empty", "not UTF-8", "NUL", "group", "others"],
)
def test_an_unusable_file_is_named_and_its_content_is_not_shown(tmp_path, content, mode, words):
    file = write(tmp_path / "secrets", content, mode)
    with pytest.raises(InputError, match=words) as caught:
        read_secrets(file)
    assert str(file) in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_file_that_is_no_variable_is_refused_in_a_folder(tmp_path):
    write(tmp_path / "wandb-api-key", "planted")
    with pytest.raises(InputError, match="wandb-api-key: name each file after its variable"):
        read_secrets(tmp_path)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(InputError, match=f"secrets {tmp_path}/none: No such file"):
        load_secrets({VARIABLE: f"{tmp_path}/none"})


def test_secrets_of_the_job_override_those_of_the_machine(tmp_path):
    environ = {VARIABLE: str(write(tmp_path / "secrets", "HF_TOKEN=job\n")), "HF_TOKEN": "machine", "HOME": "/h"}
    load_secrets(environ)
    assert environ == {VARIABLE: f"{tmp_path}/secrets", "HF_TOKEN": "job", "HOME": "/h"}


def test_without_the_variable_nothing_is_loaded():
    environ = {"HOME": "/h"}
    load_secrets(environ)
    assert environ == {"HOME": "/h"}
    assert worker_setup_hook(environ) is None


def test_a_worker_that_cannot_read_the_secrets_starts_with_a_warning(tmp_path, monkeypatch, capsys):
    file = write(tmp_path / "secrets", "DISTILRAY_TEST_SECRET=1\n")
    hook = worker_setup_hook({VARIABLE: str(file)})
    file.unlink()
    hook()
    assert f"secrets {file}: No such file" in capsys.readouterr().err
    assert "DISTILRAY_TEST_SECRET" not in os.environ
