"""Models in an object store."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from pyarrow import fs

from distilray.config.distillation import TrainTeacherConfig
from distilray.errors import InputError
from distilray.models.sources import MODEL_FILES, localize
from distilray.runtime import storage
from distilray.runtime.cache import LocalCache
from distilray.runtime.run_folder import RunFolder
from tests.tiny.object_store import local_object_store

ALL_FILES = {*MODEL_FILES, "tokenizer_config.json"}


@pytest.fixture
def upload(monkeypatch, tmp_path):
    """Return a function that uploads a local folder and returns its URI."""

    def upload(folder):
        return local_object_store(monkeypatch, shutil.copytree(folder, tmp_path / "uploaded"))

    return upload


@pytest.fixture
def run(teacher_dir, tmp_path):
    """Complete run whose model is the teacher, with other files in its folder."""
    run = tmp_path / "run"
    shutil.copytree(teacher_dir, run / "model")
    for name in ("pytorch_model.bin", "modeling.py", "vocab.txt", "optimizer.safetensors"):
        (run / "model" / name).write_text("x")
    config = TrainTeacherConfig(run_dir=str(run), shards_dir="no-shards", encoder_dir="no-encoder")
    outputs = {"model/model.safetensors": {"sha256": storage.sha256(str(run / "model/model.safetensors"))}}
    RunFolder("train_teacher", config, {}).finish({"steps": 1}, outputs, "a teacher")
    return run


@pytest.fixture
def cache_dir(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def download(monkeypatch):
    """Mock that is called before each download."""
    original, before = LocalCache.download, Mock()

    def download(self, uri, file):
        before(file.name)
        return original(self, uri, file)

    monkeypatch.setattr(LocalCache, "download", download)
    return before


def names_in(folder):
    return {file.name for file in Path(folder).iterdir()}


def suffixes_in(folder):
    return {Path(name).suffix for name in names_in(folder)}


@pytest.mark.parametrize("inner", ["", "/model"])
def test_a_run_and_its_model_folder_give_the_model_without_code_and_pickles(upload, run, teacher_dir, cache_dir, inner):
    folder = localize(upload(run) + inner, cache_dir=cache_dir)
    assert names_in(folder) == ALL_FILES
    for name in ALL_FILES:
        assert Path(folder, name).read_bytes() == Path(teacher_dir, name).read_bytes()


@pytest.mark.slow
def test_a_model_is_downloaded_from_s3(bucket, run, cache_dir):
    fs.copy_files(str(run), "data/run", destination_filesystem=fs.FileSystem.from_uri(bucket)[0])
    assert names_in(localize(f"{bucket}/run", cache_dir=cache_dir)) == ALL_FILES


def test_an_mlflow_folder_gives_the_model_inside(upload, teacher_dir, tmp_path, cache_dir):
    shutil.copytree(teacher_dir, tmp_path / "mlflow/data/model")
    assert names_in(localize(upload(tmp_path / "mlflow"), cache_dir=cache_dir)) == ALL_FILES


def test_a_failed_download_leaves_no_file_and_the_next_succeeds(upload, teacher_dir, cache_dir, download):
    uri, download.side_effect = upload(teacher_dir), [None, OSError("connection reset")]
    with pytest.raises(InputError, match=rf"{uri}: cannot be fetched \(connection reset\); check address"):
        localize(uri, cache_dir=cache_dir)
    assert suffixes_in(cache_dir) == {".lock"}
    download.side_effect = None
    assert names_in(localize(uri, cache_dir=cache_dir)) == ALL_FILES


def test_a_model_that_changed_in_the_store_is_downloaded_again(upload, teacher_dir, cache_dir):
    uri = upload(teacher_dir)
    before = localize(uri, cache_dir=cache_dir)
    storage.write_bytes(f"{uri}/config.json", b"{}")
    after = localize(uri, cache_dir=cache_dir)
    assert after != before
    assert Path(after, "config.json").read_bytes() == b"{}"


def test_a_complete_run_is_identified_by_its_content_hash_not_by_times(upload, run, cache_dir, download):
    uri = upload(run)
    before = localize(uri, cache_dir=cache_dir)
    storage.write_bytes(f"{uri}/model/config.json", (run / "model/config.json").read_bytes() + b"\n")
    assert localize(uri, cache_dir=cache_dir) == before
    manifest = json.loads(storage.read_bytes(f"{uri}/manifest.json")) | {"content_hash": "0" * 64}
    storage.write_bytes(f"{uri}/manifest.json", json.dumps(manifest).encode())
    assert localize(uri, cache_dir=cache_dir) != before
    assert download.call_count == 2 * len(ALL_FILES)


def test_weights_that_differ_from_the_manifest_are_rejected_and_not_stored(upload, run, cache_dir):
    uri = upload(run)
    storage.write_bytes(f"{uri}/model/model.safetensors", b"other")
    with pytest.raises(InputError, match=rf"{uri}/model/model.safetensors: .*manifest .*\(sha256\)"):
        localize(uri, cache_dir=cache_dir)
    assert suffixes_in(cache_dir) == {".lock"}


def test_a_model_that_changes_while_it_is_fetched_is_rejected(upload, teacher_dir, cache_dir, download):
    uri = upload(teacher_dir)
    download.side_effect = lambda name: storage.write_bytes(f"{uri}/config.json", b"{}")
    with pytest.raises(InputError, match=rf"{uri}: changed while it was fetched"):
        localize(uri, cache_dir=cache_dir)


def test_only_needed_files_are_required(upload, tokenizer_dir, tmp_path, cache_dir):
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(Path(tokenizer_dir, "tokenizer.json"), tmp_path / "tokenizer")
    uri = upload(tmp_path / "tokenizer")
    with pytest.raises(InputError, match=f"{uri}: no config.json; choose a complete training run"):
        localize(uri, cache_dir=cache_dir)
    assert names_in(localize(uri, ["tokenizer.json"], cache_dir=cache_dir)) == {"tokenizer.json"}
