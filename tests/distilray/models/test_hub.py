from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from distilray.errors import InputError
from distilray.models import hub

TOKEN = "hf_secretsecretsecret"
FILES = ("config.json", "model.safetensors", "onnx/model.onnx", "README.md")


class Api:
    """Client of the hub that records its requests, or raises."""

    calls: list = []  # noqa: RUF012
    fault: Exception | None = None

    def create_repo(self, repo_id, **settings):
        self.calls.append(("create_repo", repo_id, settings))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, folder_path, **settings):
        if self.fault is not None:
            raise self.fault
        found = {str(file.relative_to(folder_path)): file.read_bytes()
                 for file in Path(folder_path).rglob("*") if file.is_file()}  # fmt: skip
        self.calls.append(("upload_folder", found, settings))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(Api, "fault", None)
    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    return Api


@pytest.fixture
def files(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return {name: str(tmp_path / name) for name in FILES}


def push(files):
    return hub.push(files, repo_id="me/model", private=True, message="a student")


def refusal(files):
    with pytest.raises(InputError) as refused:
        push(files)
    assert "\n" not in str(refused.value)
    assert TOKEN not in str(refused.value)
    return str(refused.value)


def test_exactly_the_named_files_are_uploaded_as_one_commit(api, files):
    assert push(files) == "https://hub.example/me/model"
    create, upload = api.calls
    assert create == ("create_repo", "me/model", {"private": True, "exist_ok": True})
    assert upload[1] == {name: name.encode() for name in FILES}
    assert upload[2] == {"repo_id": "me/model", "allow_patterns": sorted(FILES), "commit_message": "a student"}


@pytest.mark.parametrize("name", ["weights.bin", "model.pt", "code.py", "notes/README.md.txt", "onnx/README.md"])
def test_no_other_kind_of_file_is_ever_uploaded(api, files, tmp_path, name):
    with pytest.raises(AssertionError, match="not model files"):
        push({**files, name: files["README.md"]})
    assert api.calls == []


def test_offline_mode_is_rejected_without_a_request(api, files, monkeypatch):
    monkeypatch.setattr(hub, "is_offline_mode", lambda: True)
    assert "HF_HUB_OFFLINE is set" in refusal(files)
    assert api.calls == []


def test_a_missing_token_is_rejected_without_a_request(api, files, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    assert "no token; set HF_TOKEN" in refusal(files)
    assert api.calls == []


def test_an_error_of_the_hub_is_reported_without_the_request(api, files, monkeypatch):
    response = SimpleNamespace(status_code=403, headers={}, request=SimpleNamespace(headers={"authorization": TOKEN}))
    monkeypatch.setattr(Api, "fault", errors.HfHubHTTPError(f"no: {TOKEN}", response=response))
    assert "the hub returned 403" in refusal(files)
    monkeypatch.setattr(Api, "fault", ConnectionError(f"no route for {TOKEN}"))
    assert "cannot be reached (ConnectionError)" in refusal(files)
