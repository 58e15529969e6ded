import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, errors
from pyarrow import fs
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM

from distilray.config.distillation import TrainTeacherConfig
from distilray.errors import InputError
from distilray.models import sources
from distilray.models.masked_lm import load_masked_lm
from distilray.models.sources import MODEL_FILES, localize, model_inputs, pin
from distilray.runtime import storage
from distilray.runtime.cache import LocalCache
from distilray.runtime.run_folder import RunFolder, describe_input

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
ALL_FILES = {*MODEL_FILES, "tokenizer_config.json"}


def names_in(folder):
    return {file.name for file in Path(folder).iterdir()}


def copied_into(run, teacher_dir):
    """A run folder with the teacher as its model, without a manifest."""
    shutil.copytree(teacher_dir, run / "model")
    return run


def completed(run):
    """The run folder with its manifest, as training writes it."""
    config = TrainTeacherConfig(run_dir=str(run), shards_dir="no-shards", encoder_dir="no-encoder")
    weights = str(run / "model" / "model.safetensors")
    outputs = {"model/model.safetensors": {"sha256": storage.sha256(weights)}}
    RunFolder("train_teacher", config, {}).finish({"steps": 1}, outputs, "a teacher")
    return run


# Folders


def test_a_run_folder_resolves_to_its_model_folder(teacher_dir, tmp_path):
    assert localize(teacher_dir) == teacher_dir
    run = copied_into(tmp_path / "run", teacher_dir)
    assert localize(str(run)) == localize(f"file://{run}") == str(run / "model")


def test_a_sample_is_its_folder(monkeypatch, teacher_dir):
    monkeypatch.setattr(sources, "resolve_sample", {"sample:encoder": teacher_dir}.get)
    assert localize("sample:encoder") == teacher_dir


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_missing_file_is_one_line_that_names_folder_file_and_fix(teacher_dir, tmp_path, name):
    folder = shutil.copytree(teacher_dir, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{folder}: no {name}; \w+.*save_pretrained") as raised:
        localize(str(folder))
    assert "\n" not in str(raised.value)


def test_a_missing_folder_is_an_error_that_names_it():
    with pytest.raises(InputError, match="no-such: no such folder; choose a run"):
        localize("no-such")


def test_only_needed_files_are_required(tmp_path, tokenizer_dir):
    shutil.copy(Path(tokenizer_dir) / "tokenizer.json", tmp_path)
    assert localize(str(tmp_path), ["tokenizer.json"]) == str(tmp_path)


# Weights as the first BERT was published


def test_old_names_of_layer_norms_and_weights_of_other_heads_load_as_the_same_model(teacher_dir, tmp_path):
    folder = shutil.copytree(teacher_dir, tmp_path / "old")
    weights = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    dim = weights["bert.embeddings.word_embeddings.weight"].shape[1]
    old |= {"bert.pooler.dense.weight": torch.ones(dim, dim), "bert.pooler.dense.bias": torch.ones(dim)}
    old |= {"cls.seq_relationship.weight": torch.ones(2, dim), "cls.seq_relationship.bias": torch.ones(2)}
    old |= {"bert.embeddings.position_ids": torch.arange(dim)[None]}
    assert sum("gamma" in name for name in old) == 10
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    found = load_masked_lm(localize(str(folder))).state_dict()
    expected = load_masked_lm(teacher_dir).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Object stores


@pytest.fixture
def uploaded(bucket, tmp_path):
    """Function that uploads a local folder to a unique path of the bucket, and returns its URI."""
    target, _ = fs.FileSystem.from_uri(bucket)

    def upload(folder):
        fs.copy_files(str(folder), f"data/{tmp_path.name}", destination_filesystem=target)
        return f"{bucket}/{tmp_path.name}"

    return upload


@pytest.fixture
def cache_dir(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def copies(monkeypatch):
    """Names of the files downloaded from an object store, in order."""
    made, original = [], LocalCache.download

    def counted(self, uri, file):
        made.append(file.name)
        return original(self, uri, file)

    monkeypatch.setattr(LocalCache, "download", counted)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", "/model"])
def test_run_and_model_folder_of_an_object_store_give_the_model(uploaded, teacher_dir, tmp_path, cache_dir, inside):
    uri = uploaded(completed(copied_into(tmp_path / "run", teacher_dir)))
    folder = localize(uri + inside, cache_dir=cache_dir)
    for name in ALL_FILES:
        assert (Path(folder) / name).read_bytes() == (Path(teacher_dir) / name).read_bytes()


@pytest.mark.slow
def test_an_mlflow_folder_of_an_object_store_gives_the_model_inside(uploaded, teacher_dir, tmp_path, cache_dir):
    shutil.copytree(teacher_dir, tmp_path / "mlflow/data/model")
    assert names_in(localize(uploaded(tmp_path / "mlflow"), cache_dir=cache_dir)) == ALL_FILES


@pytest.mark.slow
def test_code_pickles_and_other_files_are_never_fetched(uploaded, teacher_dir, tmp_path, cache_dir):
    folder = shutil.copytree(teacher_dir, tmp_path / "model")
    for name in ("pytorch_model.bin", "modeling.py", "vocab.txt", "optimizer.safetensors"):
        (folder / name).write_text("x")
    assert names_in(localize(uploaded(folder), cache_dir=cache_dir)) == ALL_FILES


@pytest.mark.slow
def test_threads_that_need_a_model_at_the_same_time_fetch_it_once(uploaded, teacher_dir, cache_dir, copies):
    uri = uploaded(teacher_dir)
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: localize(uri, cache_dir=cache_dir), range(4)))
    assert len(folders) == 1
    assert sorted(copies) == sorted(ALL_FILES)


FETCH = """
import sys, time
from distilray.models.sources import localize
from distilray.runtime.cache import LocalCache
original = LocalCache.download
def counted(self, uri, file):
    print(file.name)
    time.sleep(0.1)
    return original(self, uri, file)
LocalCache.download = counted
print("ready", flush=True)
sys.stdin.readline()
localize(sys.argv[1], cache_dir=sys.argv[2])
"""


@pytest.mark.slow
def test_processes_that_need_a_model_at_the_same_time_fetch_it_once(uploaded, teacher_dir, cache_dir, root):
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-c", FETCH, uploaded(teacher_dir), cache_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    fetched = "".join(process.communicate(timeout=120)[0] for process in processes).split()
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(fetched) == sorted(ALL_FILES)


@pytest.mark.slow
def test_a_failed_download_leaves_nothing_and_the_next_succeeds(uploaded, teacher_dir, cache_dir, monkeypatch):
    uri, original = uploaded(teacher_dir), LocalCache.download

    def broken(self, remote, file):
        if file.name == "tokenizer.json":
            raise OSError("connection reset")
        return original(self, remote, file)

    with monkeypatch.context() as patched:
        patched.setattr(LocalCache, "download", broken)
        with pytest.raises(InputError, match=rf"{uri}: cannot be fetched \(connection reset\); check address"):
            localize(uri, cache_dir=cache_dir)
    assert {Path(name).suffix for name in names_in(cache_dir)} == {".lock"}
    assert names_in(localize(uri, cache_dir=cache_dir)) == ALL_FILES


@pytest.mark.slow
def test_a_download_of_a_killed_process_is_repeated(uploaded, teacher_dir, cache_dir):
    uri = uploaded(teacher_dir)
    folder = Path(localize(uri, cache_dir=cache_dir))
    part = folder.rename(folder.with_suffix(".part"))
    (part / "model.safetensors").write_bytes(b"torn")
    (part / "left").write_bytes(b"")
    assert names_in(localize(uri, cache_dir=cache_dir)) == ALL_FILES
    assert (folder / "model.safetensors").read_bytes() == (Path(teacher_dir) / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_model_that_changed_in_the_store_is_downloaded_again(uploaded, teacher_dir, cache_dir):
    uri = uploaded(teacher_dir)
    before = localize(uri, cache_dir=cache_dir)
    storage.write_bytes(f"{uri}/config.json", b"{}")
    after = localize(uri, cache_dir=cache_dir)
    assert after != before
    assert (Path(after) / "config.json").read_bytes() == b"{}"


@pytest.mark.slow
def test_a_complete_run_is_known_by_its_content_hash_not_by_times(uploaded, teacher_dir, tmp_path, cache_dir, copies):
    run = completed(copied_into(tmp_path / "run", teacher_dir))
    uri = uploaded(run)
    before = localize(uri, cache_dir=cache_dir)
    storage.write_bytes(f"{uri}/model/config.json", (run / "model/config.json").read_bytes() + b"\n")
    assert localize(uri, cache_dir=cache_dir) == before
    manifest = json.loads(storage.read_bytes(f"{uri}/manifest.json")) | {"content_hash": "0" * 64}
    storage.write_bytes(f"{uri}/manifest.json", json.dumps(manifest).encode())
    assert localize(uri, cache_dir=cache_dir) != before
    assert len(copies) == 2 * len(ALL_FILES)


@pytest.mark.slow
def test_weights_other_than_those_of_the_manifest_are_refused_and_not_kept(uploaded, teacher_dir, tmp_path, cache_dir):
    uri = uploaded(completed(copied_into(tmp_path / "run", teacher_dir)))
    storage.write_bytes(f"{uri}/model/model.safetensors", b"other")
    with pytest.raises(InputError, match=rf"{uri}/model/model.safetensors: .*manifest .*\(sha256\)"):
        localize(uri, cache_dir=cache_dir)
    assert {Path(name).suffix for name in names_in(cache_dir)} == {".lock"}


@pytest.mark.slow
def test_a_model_that_changes_while_it_is_fetched_is_refused(uploaded, teacher_dir, cache_dir, monkeypatch):
    uri, original = uploaded(teacher_dir), LocalCache.download

    def overtaken(self, remote, file):
        digest = original(self, remote, file)
        storage.write_bytes(f"{uri}/config.json", b"{}")
        return digest

    monkeypatch.setattr(LocalCache, "download", overtaken)
    with pytest.raises(InputError, match=rf"{uri}: changed while it was fetched"):
        localize(uri, cache_dir=cache_dir)


@pytest.mark.slow
def test_a_file_that_the_store_lacks_is_an_error_that_names_it_and_a_lone_tokenizer_will_do(
    uploaded, tokenizer_dir, tmp_path, cache_dir
):
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(Path(tokenizer_dir) / "tokenizer.json", tmp_path / "tokenizer")
    uri = uploaded(tmp_path / "tokenizer")
    with pytest.raises(InputError, match=f"{uri}: no config.json; choose a complete training run"):
        localize(uri, cache_dir=cache_dir)
    assert names_in(localize(uri, ["tokenizer.json"], cache_dir=cache_dir)) == {"tokenizer.json"}


# The hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Empty cache of the hub's client; returns a function that adds a model to it as the client does."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    sources._hub_snapshot.cache_clear()

    def store(name, folder, *, commit=COMMIT, revision="main", files=ALL_FILES):
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        for file in files:
            shutil.copy(Path(folder) / file, snapshot)
        return str(snapshot)

    yield store
    sources._hub_snapshot.cache_clear()


@pytest.fixture
def failing(hub, monkeypatch):
    """Hub that returns an error."""

    def fail(error):
        def snapshot_download(*_, **__):
            raise error

        monkeypatch.setattr(sources, "snapshot_download", snapshot_download)

    return fail


class ProxyError(Exception):
    """Error of the HTTP library of the hub's client."""


ANSWER: Any = SimpleNamespace(headers={}, request=None)


def test_a_model_in_the_cache_of_the_hub_is_found_without_network(hub, teacher_dir):
    assert constants.is_offline_mode()
    snapshot = hub("google-bert/bert-base-uncased", teacher_dir)
    folder = localize("hub:google-bert/bert-base-uncased")
    assert folder == snapshot
    assert isinstance(load_masked_lm(folder), BertForMaskedLM)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, teacher_dir):
    hub("owner/name", teacher_dir)
    snapshot = hub("owner/name", teacher_dir, commit=OTHER_COMMIT, revision="v1.0")
    assert localize("hub:owner/name@v1.0") == localize(f"hub:owner/name@{OTHER_COMMIT}") == snapshot


def test_a_pinned_source_names_the_commit_and_stays_with_it(hub, teacher_dir):
    snapshot = hub("owner/name", teacher_dir)
    source = pin("hub:owner/name")
    hub("owner/name", teacher_dir, commit=OTHER_COMMIT)
    assert source == pin(source) == f"hub:owner/name@{COMMIT}"
    assert localize(source) == snapshot


def test_a_process_always_uses_the_same_commit(hub, teacher_dir):
    first = hub("owner/name", teacher_dir)
    assert localize("hub:owner/name") == first
    hub("owner/name", teacher_dir, commit=OTHER_COMMIT)
    assert localize("hub:owner/name") == first


@pytest.mark.parametrize("source", [".", "s3://bucket/run", "sample:encoder"])
def test_only_ids_of_the_hub_are_pinned(source):
    assert pin(source) == source


def test_only_the_files_of_a_model_are_asked_of_the_hub(hub, teacher_dir, monkeypatch):
    snapshot, asked = hub("owner/name", teacher_dir), []

    def snapshot_download(name, **settings):
        asked.append((name, settings))
        return snapshot

    monkeypatch.setattr(sources, "snapshot_download", snapshot_download)
    localize("hub:owner/name@v1")
    [(name, settings)] = asked
    assert (name, settings["revision"]) == ("owner/name", "v1")
    assert set(settings["allow_patterns"]) == ALL_FILES


@pytest.mark.parametrize(
    "source",
    [
        "hub:",
        "hub:bert-base-uncased",
        "hub:a/b/c",
        "hub:owner/name@",
        "hub:owner/name@../../secret",
        "hub:owner/name@/etc",
        "hub:owner/na me",
        "hub:https://host/owner/name",
    ],
)
def test_an_invalid_hub_id_is_rejected_with_the_expected_form(hub, source):
    with pytest.raises(InputError, match=r": not an id of the hub; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION"):
        localize(source)


def test_a_model_that_is_not_in_the_cache_without_network_is_one_line_with_the_id_and_the_fix(hub):
    with pytest.raises(InputError) as raised:
        localize("hub:owner/name")
    assert str(raised.value) == (
        "hub:owner/name: not in the local cache, and HF_HUB_OFFLINE=1 (or TRANSFORMERS_OFFLINE) disables downloads; "
        "set it to 0; or download it on another machine with hf download owner/name config.json "
        "model.safetensors tokenizer.json --local-dir FOLDER, and use that folder"
    )


def test_a_model_of_the_hub_without_safetensors_is_refused_with_the_fix(hub, teacher_dir):
    hub("owner/name", teacher_dir, files=["config.json", "tokenizer.json"])
    with pytest.raises(InputError, match=r"hub:owner/name: no model.safetensors; .*save_pretrained"):
        localize("hub:owner/name")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.GatedRepoError("no\nlicence", response=ANSWER), "accept its terms and log in"),
        (errors.RepositoryNotFoundError("401\nfor url", response=ANSWER), "no such model, or it is private"),
        (errors.RevisionNotFoundError("404\nfor url", response=ANSWER), "no such revision"),
        (errors.HfHubHTTPError("500\nfor url", response=ANSWER), r"cannot be fetched \(HfHubHTTPError\)"),
        (ProxyError("refused\nby proxy"), r"cannot be fetched \(ProxyError\)"),
        (OSError(28, "No space left on device"), r"cannot be fetched \(No space left on device\)"),
    ],
)
def test_each_refusal_of_the_hub_is_one_line_with_the_id_and_the_fix(failing, error, reason):
    failing(error)
    with pytest.raises(InputError, match=rf"^hub:owner/name: .*{reason}.*--local-dir FOLDER") as raised:
        localize("hub:owner/name")
    assert "\n" not in str(raised.value)


def test_a_token_in_a_client_error_is_never_repeated(failing):
    failing(ProxyError("Illegal header value b'Bearer hf_planted'"))
    with pytest.raises(InputError) as raised:
        localize("hub:owner/name")
    assert "hf_planted" not in str(raised.value)
    assert raised.value.__suppress_context__


# What a run records of its inputs


def identities(source):
    return {name: describe_input(uri) for name, uri in model_inputs("teacher", source).items()}


def test_a_model_is_the_same_input_in_a_folder_and_on_the_hub(hub, teacher_dir, tmp_path):
    snapshot = hub("owner/name", teacher_dir)
    (Path(snapshot) / "README.md").write_text("a card")
    assert identities("hub:owner/name") == identities(teacher_dir)
    assert set(identities(teacher_dir)) == {"teacher", "teacher_config"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_other_weights_or_another_configuration_are_another_input(teacher_dir, tmp_path, name):
    folder = shutil.copytree(teacher_dir, tmp_path / "model")
    before = identities(str(folder))
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    assert identities(str(folder)) != before


def test_a_complete_run_is_known_by_its_manifest(teacher_dir, tmp_path):
    run = completed(copied_into(tmp_path / "run", teacher_dir))
    manifest = json.loads((run / "manifest.json").read_text())
    assert identities(str(run)) == {"teacher": {"content_hash": manifest["content_hash"]}}
