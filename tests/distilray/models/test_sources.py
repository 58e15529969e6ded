import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM

from distilray.errors import InputError
from distilray.models import sources
from distilray.models.masked_lm import load_masked_lm
from distilray.models.sources import MODEL_FILES, localize, model_inputs, pin, pin_tokenizer, tokenizer_inputs
from distilray.runtime.run_folder import describe_input

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
ALL_FILES = [*MODEL_FILES, "tokenizer_config.json"]


@pytest.fixture
def folder(teacher_dir, tmp_path):
    """Copy of the teacher."""
    return shutil.copytree(teacher_dir, tmp_path / "folder")


# Local folders


@pytest.mark.parametrize("inner", [".", "model", "data/model"], ids=["model", "run", "MLflow"])
def test_the_model_folder_inside_a_run_or_an_mlflow_model_is_used(teacher_dir, tmp_path, inner):
    folder = shutil.copytree(teacher_dir, tmp_path / "source" / inner, dirs_exist_ok=True)
    assert localize(f"{tmp_path}/source") == localize(f"file://{tmp_path}/source") == str(folder)


def test_a_sample_is_its_folder(monkeypatch, teacher_dir):
    monkeypatch.setattr(sources, "resolve_sample", {"sample:encoder": teacher_dir}.get)
    assert localize("sample:encoder") == teacher_dir


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_missing_file_is_named_with_folder_and_fix_unless_it_is_not_needed(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"^{folder}: no {name}; \w+.*save_pretrained.*$"):
        localize(str(folder))
    assert localize(str(folder), [other for other in MODEL_FILES if other != name]) == str(folder)


@pytest.mark.parametrize("function", [localize, pin])
def test_a_missing_folder_is_named(function):
    with pytest.raises(InputError, match="no-such: no such folder; choose a run"):
        function("no-such")


def test_weights_in_the_format_of_the_first_bert_load_as_the_same_model(teacher_dir, folder):
    weights = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    assert sum("gamma" in name for name in old) == 10
    dim = weights["bert.embeddings.word_embeddings.weight"].shape[1]
    for name, rows in (("bert.pooler.dense", dim), ("cls.seq_relationship", 2)):  # other heads
        old |= {f"{name}.weight": torch.ones(rows, dim), f"{name}.bias": torch.ones(rows)}
    old |= {"bert.embeddings.position_ids": torch.arange(dim)[None]}
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_masked_lm(localize(str(folder))).state_dict()
    expected = load_masked_lm(teacher_dir).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


# The hub


@pytest.fixture
def hub(monkeypatch, tmp_path, teacher_dir):
    """Empty cache of the hub's client; returns a function that adds a model to it as the client does."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    sources._hub_snapshot.cache_clear()

    def store(*, commit=COMMIT, revision="main", files=ALL_FILES):
        repository = tmp_path / "hub/models--owner--name"
        snapshot = repository / "snapshots" / commit
        for folder in (snapshot, repository / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        for file in files:
            shutil.copy(Path(teacher_dir, file), snapshot)
        return str(snapshot)

    yield store
    sources._hub_snapshot.cache_clear()


def test_a_model_in_the_cache_of_the_hub_is_found_without_network(hub):
    assert constants.is_offline_mode()
    snapshot = hub()
    assert localize("hub:owner/name") == pin_tokenizer("hub:owner/name") == snapshot
    assert isinstance(load_masked_lm(snapshot), BertForMaskedLM)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub):
    hub()
    snapshot = hub(commit=OTHER_COMMIT, revision="v1.0")
    assert localize("hub:owner/name@v1.0") == localize(f"hub:owner/name@{OTHER_COMMIT}") == snapshot


def test_a_process_always_uses_the_same_commit_and_a_pinned_source_names_it(hub):
    first = hub()
    pinned = pin("hub:owner/name")
    hub(commit=OTHER_COMMIT)
    assert pinned == pin(pinned) == f"hub:owner/name@{COMMIT}"
    assert localize("hub:owner/name") == localize(pinned) == first


@pytest.mark.parametrize("source", [".", "s3://bucket/run", "sample:encoder"])
def test_only_ids_of_the_hub_are_pinned(source):
    assert pin(source) == pin_tokenizer(source) == source


def test_only_model_files_are_requested_from_the_hub(hub, monkeypatch):
    download = Mock(return_value=hub())
    monkeypatch.setattr(sources, "snapshot_download", download)
    localize("hub:owner/name@v1")
    download.assert_called_once_with("owner/name", revision="v1", allow_patterns=ALL_FILES)


@pytest.mark.parametrize(
    "name",
    [
        *("", "bert-base-uncased", "a/b/c", "owner/name@", "owner/name@../../secret", "owner/name@/etc"),
        *("owner/na me", "https://host/owner/name"),
    ],
)
def test_an_invalid_hub_id_is_rejected_with_the_expected_form(hub, name):
    with pytest.raises(InputError, match=r": not an id of the hub; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION"):
        localize(f"hub:{name}")


def test_a_model_of_the_hub_without_safetensors_is_rejected_with_the_fix(hub):
    hub(files=["config.json", "tokenizer.json"])
    with pytest.raises(InputError, match=r"hub:owner/name: no model.safetensors; .*save_pretrained"):
        localize("hub:owner/name")


class ProxyError(Exception):
    """Error of the HTTP library of the hub's client."""


RESPONSE = SimpleNamespace(headers={}, request=None)
OFFLINE = "not in the local cache, and HF_HUB_OFFLINE=1 (or TRANSFORMERS_OFFLINE) disables downloads; set it to 0"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, OFFLINE),
        (errors.LocalEntryNotFoundError("x"), OFFLINE),
        (errors.GatedRepoError("no\nlicence", response=RESPONSE), "the model is gated; accept its terms and log in"),
        (
            errors.RepositoryNotFoundError("401\nfor url", response=RESPONSE),
            "the hub has no such model, or it is private; check the id",
        ),
        (
            errors.RevisionNotFoundError("404\nfor url", response=RESPONSE),
            "the model has no such revision; check the part after @",
        ),
        (errors.HfHubHTTPError("500\nfor url", response=RESPONSE), "cannot be fetched (HfHubHTTPError)"),
        (ProxyError("Illegal header value b'Bearer hf_token'\nby proxy"), "cannot be fetched (ProxyError)"),
        (OSError(28, "No space left on device"), "cannot be fetched (No space left on device)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception | None) else "",
)
def test_an_error_of_the_hub_is_one_line_with_the_id_and_the_fix_but_no_token(hub, monkeypatch, error, reason):
    if error is not None:
        monkeypatch.setattr(sources, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(InputError) as raised:
        localize("hub:owner/name")
    assert str(raised.value) == (
        f"hub:owner/name: {reason}; or download it on another machine with hf download owner/name config.json "
        "model.safetensors tokenizer.json --local-dir FOLDER, and use that folder"
    )
    assert raised.value.__suppress_context__


# Identities of models in manifests


def identities(source):
    return {name: describe_input(uri) for name, uri in model_inputs("teacher", str(source)).items()}


def test_a_model_is_the_same_input_in_a_folder_and_on_the_hub(hub, teacher_dir):
    Path(hub(), "README.md").write_text("a card")
    assert identities("hub:owner/name") == identities(teacher_dir)
    assert set(identities(teacher_dir)) == {"teacher", "teacher_config"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.onnx"])
def test_other_weights_or_another_configuration_are_another_input(folder, name):
    before = identities(folder)
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    assert identities(folder) != before


def test_a_complete_run_is_identified_by_its_manifest_and_a_tokenizer_by_its_file(folder):
    (folder / "manifest.json").touch()
    assert model_inputs("teacher", str(folder)) == {"teacher": str(folder)}
    assert tokenizer_inputs("tokenizer", str(folder)) == {"tokenizer": f"{folder}/tokenizer.json"}
