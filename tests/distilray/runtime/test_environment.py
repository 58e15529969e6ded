import os

import pytest

from distilray.errors import InputError
from distilray.runtime.environment import (
    inside_cluster,
    load_secrets,
    read_secrets,
    temporary_environment,
    worker_setup_hook,
)

VARIABLE = "DISTILRAY_SECRETS_PATH"


def fail_in_block():
    with temporary_environment({"PRESENT": "in", "MISSING": "in"}):
        assert (os.environ["PRESENT"], os.environ["MISSING"]) == ("in", "in")
        raise KeyError


def test_variables_are_set_in_the_block_and_restored_after_it(monkeypatch):
    monkeypatch.setenv("PRESENT", "before")
    monkeypatch.delenv("MISSING", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError):
        fail_in_block()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("address", "expected"), [(None, False), ("", False), ("local", False), ("10.0.0.1:6379", True), ("auto", True)]
)
def test_a_process_is_inside_a_cluster_if_its_environment_has_an_address(monkeypatch, address, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert inside_cluster() is expected


def write(path, content, mode=0o600):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("line", "secrets"),
    [
        ("HF_TOKEN=hf_1=2#3", {"HF_TOKEN": "hf_1=2#3"}),
        ("export WANDB_API_KEY='a b'", {"WANDB_API_KEY": "a b"}),
        ('MLFLOW_TRACKING_URI="https://u:p@host"', {"MLFLOW_TRACKING_URI": "https://u:p@host"}),
        ("E=", {"E": ""}),
        ("Q='", {"Q": "'"}),
        ("M='a\"", {"M": "'a\""}),
    ],
)
def test_a_file_has_a_variable_on_each_line(tmp_path, line, secrets):
    text = f"  # of team A\n\n{line}\nOTHER=1\n"
    assert read_secrets(write(tmp_path / "secrets", text)) == {**secrets, "OTHER": "1"}


def test_a_folder_is_read_as_kubernetes_mounts_a_secret(tmp_path):
    (tmp_path / "..2026_11_29").mkdir()
    write(tmp_path / "..2026_11_29/HF_TOKEN", "hf_1\n")
    (tmp_path / "..data").symlink_to("..2026_11_29")
    (tmp_path / "HF_TOKEN").symlink_to("..data/HF_TOKEN")
    assert read_secrets(tmp_path) == {"HF_TOKEN": "hf_1"}


@pytest.mark.parametrize(
    ("name", "content", "mode", "message"),
    [
        ("secrets", "A=1\nplanted\n", 0o600, "secrets: line 2: write NAME=VALUE"),
        ("secrets", "A B=planted\n", 0o600, "secrets: line 1: write NAME=VALUE"),
        ("secrets", "# planted\n", 0o600, "secrets: empty"),
        ("secrets", b"A=planted\xff\n", 0o600, "secrets: not a UTF-8 text file"),
        ("secrets", b"A=planted\0\n", 0o600, "secrets: not a UTF-8 text file"),
        ("secrets", "A=planted\n", 0o640, "run `chmod 600"),
        ("secrets", "A=planted\n", 0o604, "run `chmod 600"),
        ("folder/wandb-api-key", "planted", 0o600, "wandb-api-key: name each file after its variable"),
    ],
    ids=["no equals sign", "name", "empty", "not UTF-8", "NUL", "group", "others", "file name"],
)
def test_an_unusable_file_is_named_and_its_content_is_not_shown(tmp_path, name, content, mode, message):
    (tmp_path / "folder").mkdir()
    file = write(tmp_path / name, content, mode)
    with pytest.raises(InputError, match=message) as raised:
        read_secrets(tmp_path / name.partition("/")[0])
    assert str(file) in str(raised.value)
    assert "planted" not in str(raised.value)


def test_secrets_of_the_job_override_those_of_the_machine(tmp_path):
    environ = {VARIABLE: str(write(tmp_path / "secrets", "HF_TOKEN=job\n")), "HF_TOKEN": "machine", "HOME": "/h"}
    load_secrets(environ)
    assert environ == {VARIABLE: f"{tmp_path}/secrets", "HF_TOKEN": "job", "HOME": "/h"}


def test_no_secrets_are_loaded_without_the_variable():
    environ = {"HOME": "/h"}
    load_secrets(environ)
    assert environ == {"HOME": "/h"}
    assert worker_setup_hook(environ) is None


def test_a_worker_loads_the_secrets_or_starts_with_a_warning_without_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    file = write(tmp_path / "secrets", "DISTILRAY_TEST_SECRET=1\n")
    hook = worker_setup_hook({VARIABLE: str(file)})
    hook()
    assert os.environ.pop("DISTILRAY_TEST_SECRET") == "1"
    file.unlink()
    hook()
    assert f"secrets {file}: No such file" in capsys.readouterr().err
    assert "DISTILRAY_TEST_SECRET" not in os.environ
    with pytest.raises(InputError, match=f"secrets {file}: No such file"):
        load_secrets({VARIABLE: str(file)})
