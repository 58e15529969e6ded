from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY, Mock

import pytest
from huggingface_hub import errors

from distilray.errors import InputError
from distilray.models import hub

TOKEN = "hf_secretsecretsecret"
FILES = ("config.json", "model.safetensors", "onnx/model.onnx", "README.md")


@pytest.fixture
def api(monkeypatch):
    """Client of the hub; `uploaded` contains the uploaded files."""
    api = Mock(uploaded={})
    api.create_repo.return_value = "https://hub.example/me/model"

    def upload(*, folder_path, **_):
        files = [file for file in Path(folder_path).rglob("*") if file.is_file()]
        api.uploaded |= {str(file.relative_to(folder_path)): file.read_text() for file in files}

    api.upload_folder.side_effect = upload
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    return api


@pytest.fixture
def files(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return {name: str(tmp_path / name) for name in FILES}


def push(files):
    return hub.push(files, repo_id="me/model", private=True, message="a student")


def test_exactly_the_named_files_are_uploaded_as_one_commit(api, files):
    assert push(files) == "https://hub.example/me/model"
    assert api.uploaded == {name: name for name in FILES}
    api.create_repo.assert_called_once_with("me/model", private=True, exist_ok=True)
    api.upload_folder.assert_called_once_with(
        repo_id="me/model", folder_path=ANY, allow_patterns=sorted(FILES), commit_message="a student"
    )


@pytest.mark.parametrize("name", ["weights.bin", "model.pt", "code.py", "notes/README.md.txt", "onnx/README.md"])
def test_other_kinds_of_files_are_never_uploaded(api, files, name):
    with pytest.raises(AssertionError, match="not model files"):
        push({**files, name: files["README.md"]})
    assert api.mock_calls == []


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [("is_offline_mode", True, "HF_HUB_OFFLINE is set"), ("get_token", None, "no token; set HF_TOKEN")],
)
def test_offline_mode_and_a_missing_token_are_rejected_without_a_request(
    api, files, monkeypatch, function, value, message
):
    monkeypatch.setattr(hub, function, lambda: value)
    with pytest.raises(InputError, match=f"push.repo_id=me/model: {message}"):
        push(files)
    assert api.mock_calls == []


RESPONSE = SimpleNamespace(status_code=403, headers={}, request=SimpleNamespace(headers={"authorization": TOKEN}))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.HfHubHTTPError(f"no:\n{TOKEN}", response=RESPONSE), "the hub returned 403; check the token"),
        (ConnectionError(f"no\n{TOKEN}"), r"the hub cannot be reached \(ConnectionError\); run the job again later"),
    ],
)
def test_an_error_of_the_hub_is_reported_without_the_request(api, files, error, message):
    api.upload_folder.side_effect = error
    with pytest.raises(InputError, match=f"^push.repo_id=me/model: {message}$"):
        push(files)
