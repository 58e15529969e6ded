import errno
import os
import re
import shutil
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from distilray.config.base import JobConfig, ModelRef, Shards, Tokenizer
from distilray.config.distillation import DistillConfig
from distilray.config.evaluation import EvaluateBiasConfig, MeasureEfficiencyConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.errors import InputError
from distilray.operations.doctor import recipe_checks
from distilray.operations.doctor.check import Finding, ok
from distilray.operations.doctor.recipe_checks import (
    check_locations,
    check_models,
    check_runs,
    check_store,
    required_inputs,
    run_bytes,
)
from distilray.runtime import storage
from distilray.runtime.file_search import find_files
from tests.tiny.runs import write_run


class Reads(JobConfig):
    """A job that reads a run, a model and a tokenizer."""

    shards_dir: Shards | None = None
    teacher_dir: ModelRef | None = None
    tokenizer_dir: Tokenizer | None = None


def reads(**locations: object) -> Reads:
    return Reads.model_validate({"run_dir": "r", **{key: str(value) for key, value in locations.items()}})


def distill(**values: object) -> DistillConfig:
    return DistillConfig.model_validate({"run_dir": "r", "shards_dir": "s", "teacher_dir": "t", **values})


@pytest.fixture
def teacher_dir(tmp_path: Path) -> str:
    """Model folder with two small tensors."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    tensors = {"a": np.zeros(100, np.float32), "b": np.zeros(50, np.float32)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def shards_dir(tmp_path: Path) -> str:
    """Complete run of `encode_corpus` with one shard."""
    folder = tmp_path / "shards"
    write_run(folder, "encode_corpus", outputs={"shards/train-0.arrow": {"bytes": 20}})
    (folder / "shards").mkdir()
    (folder / "shards/train-0.arrow").write_bytes(bytes(20))
    return str(folder)


def models(**locations: object) -> Finding:
    return check_models(reads(**locations), offline=True)


def text_of(finding: Finding) -> str:
    return f"{finding.status}: {finding.message} -> {finding.fix}"


@pytest.mark.parametrize(
    ("config", "runs", "model_dirs"),
    [
        (distill(teacher_cache_dir="c"), {"shards_dir": "s", "teacher_cache_dir": "c"}, {"teacher_dir": "t"}),
        (EvaluateBiasConfig(run_dir="r", models={"a": "x"}), {}, {"models.a": "x"}),
        (
            MeasureEfficiencyConfig(run_dir="r", text_path="t", models=[{"name": "a", "model_dir": "x"}]),
            {},
            {"models.0.model_dir": "x"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_runs_and_models_of_a_recipe_have_their_keys(config, runs, model_dirs):
    assert required_inputs(config, "run") == runs
    assert required_inputs(config, "model") == model_dirs


def test_missing_complete_and_undamaged_inputs_are_ok(shards_dir, teacher_dir):
    assert check_runs(reads()) == ok("the recipe reads no run")
    assert models() == ok("the recipe reads no model")
    assert check_runs(reads(shards_dir=shards_dir)).status == "ok"
    finding = models(teacher_dir=teacher_dir, tokenizer_dir=teacher_dir)
    assert re.match(r"ok: teacher_dir .* \(bert, 2 tensors\), tokenizer_dir .* exists", text_of(finding))


def truncated(data: bytes) -> bytes:
    return data[:-9]


@pytest.mark.parametrize(
    ("key", "pattern", "damage", "words"),
    [
        ("shards_dir", "manifest.json", None, "no manifest.json"),
        ("shards_dir", "shards/*.arrow", None, ".arrow is missing"),
        ("shards_dir", "shards/*.arrow", truncated, ".arrow has .* bytes, not"),
        ("teacher_dir", "config.json", None, "no config.json"),
        ("teacher_dir", "config.json", lambda data: b"{", "config.json: invalid JSON"),
        ("teacher_dir", "model.safetensors", None, "no model.safetensors"),
        ("teacher_dir", "model.safetensors", truncated, "model.safetensors: damaged, has"),
        ("teacher_dir", "model.safetensors", lambda data: data + b"x", "model.safetensors: damaged, has"),
        ("teacher_dir", "model.safetensors", lambda data: b"", "model.safetensors: not a safetensors file"),
        ("teacher_dir", "model.safetensors", lambda data: b"<html>" * 99, "not a safetensors file"),
        ("teacher_dir", "tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer_dir", "tokenizer.json", None, "no tokenizer.json"),
    ],
)
def test_a_missing_or_damaged_file_is_named(shards_dir, teacher_dir, tmp_path, key, pattern, damage, words):
    source = shards_dir if key == "shards_dir" else teacher_dir
    check = check_runs if key == "shards_dir" else partial(check_models, offline=True)
    folder = Path(shutil.copytree(source, tmp_path / "input"))
    file = min(folder.glob(pattern))
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    assert re.match(f"fail: {key}: .*{words}.* -> .", text_of(check(reads(**{key: folder}))))
    if file.name in ("config.json", "model.safetensors"):
        assert models(tokenizer_dir=folder).status == "ok"


@pytest.mark.parametrize("inner", ["model", "data/model"])
def test_a_run_or_a_folder_of_mlflow_contains_a_model(teacher_dir, tmp_path, inner):
    shutil.copytree(teacher_dir, tmp_path / "outer" / inner)
    assert models(teacher_dir=tmp_path / "outer").status == "ok"


def test_a_model_in_an_object_store_is_checked_without_a_download(teacher_dir, bucket, monkeypatch):
    for file in Path(teacher_dir).iterdir():
        storage.write_bytes(f"{bucket}/teacher/{file.name}", file.read_bytes())
    size, ends = Path(teacher_dir, "model.safetensors").stat().st_size, []
    read_range = storage.read_range

    def record(uri: str, start: int, end: int) -> bytes:
        ends.append(end)
        return read_range(uri, start, end)

    monkeypatch.setattr(storage, "read_range", record)
    assert models(teacher_dir=f"{bucket}/teacher").status == "ok"
    assert 0 < max(ends) < size


@pytest.mark.parametrize(("offline", "status"), [(True, "fail"), (False, "warn")])
def test_a_model_of_the_hub_that_is_not_cached_is_reported(tmp_path, monkeypatch, offline, status):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    finding = check_models(reads(teacher_dir="hub:nobody/no-such-model"), offline=offline)
    assert re.match(f"{status}: .*hf download nobody/no-such-model", text_of(finding))


def test_a_model_of_the_hub_in_the_cache_needs_all_its_files(teacher_dir, tmp_path, monkeypatch):
    requests = []

    def snapshot(name: str, **options: object) -> str:
        requests.append((name, options))
        return teacher_dir if options["revision"] else str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    (tmp_path / "tokenizer.json").touch()
    assert models(teacher_dir="hub:some/model@main").status == "ok"
    assert requests == [("some/model", {"revision": "main", "local_files_only": True})]
    assert models(teacher_dir="hub:some/model").status == "fail"
    assert models(tokenizer_dir="hub:some/model").status == "ok"


def test_paths_of_other_machines_are_not_reported_as_missing():
    for finding in (
        check_runs(reads(shards_dir="/no/such/shards"), outside=True),
        check_models(reads(teacher_dir="/no/such/teacher"), offline=True, outside=True),
        check_store("/no/such/run", outside=True),
    ):
        assert re.match("warn: .*ray job submit", text_of(finding))


@pytest.mark.parametrize(
    ("mounts", "status"), [("/dev/sda / xfs rw 0 0", "warn"), ("nfs:/ / nfs4 rw 0 0", "ok"), (None, "ok")]
)
def test_a_disk_of_one_machine_is_a_warning_inside_a_cluster(mounts, status):
    config = distill(run_dir="/mnt/run", shards_dir="s3://bucket/shards", teacher_dir="hub:a/b")
    assert check_locations(config, mounts).status == status


def test_a_training_run_stores_its_model_and_its_checkpoints(teacher_dir):
    weights = Path(teacher_dir, "model.safetensors").stat().st_size
    config = distill(teacher_dir=teacher_dir, intervals={"keep_checkpoints": 2})
    assert run_bytes(config) == weights * (1 + 3 * 3)
    encoding = EncodeCorpusConfig.model_validate({"run_dir": "r", "corpus_dir": "c", "tokenizer_dir": "t"})
    assert [run_bytes(other) for other in (distill(teacher_dir="hub:a/b"), distill(), encoding)] == [None] * 3


# Storage


@pytest.mark.parametrize("folder", ["", "/run", "/a/b/run"])
def test_the_check_leaves_a_writable_folder_unchanged(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    assert re.match(f"ok: {tmp_path}{folder}: ", text_of(check_store(f"{tmp_path}{folder}")))
    assert [file.name for file in tmp_path.rglob("*")] == ["file"]


def test_the_check_leaves_a_bucket_unchanged(bucket):
    assert [check_store(f"{bucket}{folder}").status for folder in ("", "/run", "/a/b/run")] == ["ok"] * 3
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}?list-type=2"
    assert b"<Contents>" not in urllib.request.urlopen(url).read()  # no keys, not even of folders
    storage.write_bytes(f"{bucket}/runs/one/file", b"x")
    assert check_store(f"{bucket}/runs/two").status == "ok"
    assert check_store(f"{bucket}/runs/one").status == "ok"
    assert find_files(f"{bucket}/runs") == [f"{bucket}/runs/one/file"]
    assert re.match("fail: s3://no-such-bucket/run: .* -> .", text_of(check_store("s3://no-such-bucket/run")))


def test_files_written_by_others_during_the_check_are_not_removed(bucket, tmp_path, monkeypatch):
    def write_other(probe: str, uri: str, name: str) -> str:
        storage.write_bytes(f"{uri}/of-another", b"x")
        return ""

    monkeypatch.setattr(recipe_checks, "_write_and_read", write_other)
    for uri in (f"{bucket}/run", f"{tmp_path}/run"):
        assert check_store(uri).status == "ok"
        assert storage.read_bytes(f"{uri}/of-another") == b"x"


def refuse_with(code: int) -> Callable[..., None]:
    def refuse(uri: str, data: bytes) -> None:
        try:
            raise OSError(code, os.strerror(code))
        except OSError:
            raise InputError(f"{uri}: cannot be written") from None

    return refuse


@pytest.mark.parametrize(
    ("function", "replacement", "words"),
    [
        ("read_bytes", lambda uri: b"other", "differs"),
        ("list_files", lambda uri: [], "not listed"),
        ("remove_file", lambda uri: None, "still exists"),
        ("write_bytes", refuse_with(errno.EACCES), "no permission for user .*chmod or chown"),
        ("write_bytes", refuse_with(errno.EPERM), "no permission for user .*chmod or chown"),
        ("write_bytes", refuse_with(errno.ENOSPC), "no space .*free space"),
        ("write_bytes", refuse_with(errno.EDQUOT), "no space .*raise the quota"),
        ("write_bytes", refuse_with(errno.EROFS), "Read-only file system .*mount it with write access"),
        ("write_bytes", refuse_with(errno.ENOTDIR), "Not a directory -> check permissions, credentials and quota"),
    ],
)
def test_a_store_that_fails_or_is_inconsistent_is_described(tmp_path, monkeypatch, function, replacement, words):
    monkeypatch.setattr(storage, function, replacement)
    assert re.match(f"fail: {tmp_path}/run: .*{words}", text_of(check_store(str(tmp_path / "run"))))


def test_a_path_through_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("x")
    assert re.match("fail: .*Not a directory", text_of(check_store(f"{tmp_path}/file/run")))
    assert (tmp_path / "file").read_text() == "x"


def test_the_folder_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir(mode=0o700)

    def refuse(uri: str) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    def access(path: object, mode: int) -> bool:  # of a user who may not enter the folder
        return "closed/" not in str(path) and not (mode == os.X_OK and str(path).endswith("closed"))

    monkeypatch.setattr(storage, "exists", refuse)
    monkeypatch.setattr(recipe_checks.os, "access", access)
    finding = check_store(f"{tmp_path}/closed/a/run")
    assert f"{tmp_path}/closed has mode drwx------ and belongs to user {os.getuid()}" in finding.message
