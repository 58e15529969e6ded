"""No external name leads outside its folder (S6)."""

import ast
import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from distilray.config.pretraining_data import CacheConfig
from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.tasks.fill_mask import FillMask
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.runtime.run_folder import SCHEMA, read_manifest
from distilray.training.checkpoint import CheckpointStore
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from tests.tiny.models import write_tiny_model

OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "a//x", "./x", ".."]
CODE = ("platform", "jobs", "serve", "tuning")
UNPACKING = {"extract", "extractall", "unpack_archive"}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_an_output_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    manifest = {
        "schema": SCHEMA,
        "content_hash": "0",
        "content": {"job": "build_corpus", "outputs": {name: {"rows": 1}}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="is outside the folder"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("sha256", [*OUTSIDE, "", "a" * 63, "A" * 64, "a" * 64 + "\n", None])
def test_the_cache_creates_no_file_for_an_invalid_hash(tmp_path: Path, sha256: str | None) -> None:
    cache = ShardCache(CacheConfig(directory=str(tmp_path / "above" / "cache")))
    (tmp_path / "above").mkdir()
    with pytest.raises(InputError, match="no sha256"):
        cache.download("s3://data/shard.arrow", {"sha256": sha256})
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("name", ["step-0000003x", "step-3", "step-..", "step-0000003..", "..", "other"])
def test_a_folder_with_another_name_is_not_a_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / name / "state.json").write_text("{}")
    store = CheckpointStore(str(tmp_path / "run"), keep=1, config_hash="x", notice=lambda line: None)
    assert store.steps() == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "a\\b", "a b", "a\x00b", "", "x" * 129])
def test_the_service_rejects_unsafe_model_names(name: str) -> None:
    with pytest.raises(ValidationError):
        FillMaskAppConfig(model_dir="x", model_name=name)
    with pytest.raises(ValidationError):
        FillMaskAppConfig(model_dir="x", extra_models={name: "y"})


def test_a_request_with_a_path_as_model_name_loads_nothing(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", "distilbert")
    other = write_tiny_model(tmp_path / "other", "distilbert")
    loads = []

    async def load(name: str) -> ModelService:
        loads.append(name)
        raise AssertionError

    service = ModelService(FillMask.load(model_dir), FillMaskAppConfig(model_dir=model_dir))
    with TestClient(create_api(Models(service, others=("teacher",), load=load))) as client:
        for name in (other, "../other", "../../../../etc", "teacher/../../other", f"file://{other}"):
            response = client.post("/v1/fill-mask", json={"inputs": "[MASK]", "model": name})
            assert response.status_code in {404, 422}
            assert other not in response.text
    assert loads == []


def test_no_module_unpacks_an_archive(root: Path, project_files: list[Path]) -> None:
    # Submissions are written and inspected as zip files, and dumps are streams; no archive member becomes a file.
    uses = [
        f"{file}:{node.lineno}"
        for file in project_files
        if file.suffix == ".py" and file.parts[0] in CODE
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in UNPACKING)
        or (isinstance(node, ast.Import | ast.ImportFrom) and "tarfile" in ast.unparse(node))
    ]
    assert not uses
