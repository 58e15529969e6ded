"""No external name leads outside its folder (S6)."""

import ast
import json

import pytest
from pydantic import ValidationError

from distilray.config.pretraining_data import CacheConfig
from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.runtime.run_folder import SCHEMA, read_manifest

OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "a//x", "./x", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_an_output_outside_its_folder_is_rejected(tmp_path, name):
    content = {"job": "build_corpus", "outputs": {name: {"rows": 1}}}
    manifest = {"schema": SCHEMA, "content_hash": "0", "content": content}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="is outside the folder"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("sha256", [*OUTSIDE, "", "a" * 63, "A" * 64, "a" * 64 + "\n", None])
def test_the_cache_creates_no_file_for_an_invalid_hash(tmp_path, sha256):
    cache = ShardCache(CacheConfig(directory=str(tmp_path / "above" / "cache")))
    (tmp_path / "above").mkdir()
    with pytest.raises(InputError, match="no sha256"):
        cache.download("s3://data/shard.arrow", {"sha256": sha256})
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("name", ["step-0000003x", "step-3", "step-..", "step-0000003..", "..", "other"])
def test_a_folder_with_another_name_is_not_a_checkpoint(tmp_path, name):
    from distilray.training.checkpoint import CheckpointStore

    (tmp_path / "run" / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / name / "state.json").write_text("{}")
    store = CheckpointStore(str(tmp_path / "run"), keep=1, config_hash="x", notice=lambda line: None)
    assert store.steps() == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "a\\b", "a b", "a\x00b", "", "x" * 129])
def test_the_service_rejects_unsafe_model_names(name):
    for values in ({"model_name": name}, {"extra_models": {name: "y"}}):
        with pytest.raises(ValidationError):
            FillMaskAppConfig(model_dir="x", **values)


def test_the_service_loads_no_model_by_its_path(tmp_path):
    from distilray.inference.tasks.fill_mask import FillMask
    from serve.models import Models
    from tests.serve.contract.clients import client_of, service_of
    from tests.tiny.models import write_tiny_model

    model_dir, other = (write_tiny_model(tmp_path / name, "distilbert") for name in ("model", "other"))
    loads = []

    async def load(name):
        loads.append(name)
        raise AssertionError

    service = service_of(FillMask.load(model_dir), model_dir)
    with client_of(Models(service, others=("teacher",), load=load)) as client:
        for name in (other, "../other", "../../../../etc", "teacher/../../other", f"file://{other}"):
            response = client.post("/v1/fill-mask", json={"inputs": "[MASK]", "model": name})
            assert response.status_code in {404, 422}
            assert other not in response.text
    assert loads == []


def test_no_module_unpacks_an_archive(root, project_files):
    # Submissions are written and inspected as zip files, and dumps are streams; no archive member becomes a file.
    banned = (".extract(", ".extractall(", "unpack_archive", "tarfile")
    uses = []
    for file in project_files:
        if file.suffix == ".py" and file.parts[0] in ("platform", "jobs", "serve", "tuning"):
            text = (root / file).read_text(encoding="utf-8")
            if any(word in text for word in banned):
                uses += [f"{file}: {word}" for word in banned if word in ast.unparse(ast.parse(text))]
    assert uses == []
