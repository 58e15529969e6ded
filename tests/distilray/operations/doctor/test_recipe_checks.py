import errno
import os
import shutil
import urllib.request
from pathlib import Path

import pytest

from distilray.config.base import JobConfig, ModelRef, Shards, Tokenizer
from distilray.config.distillation import DistillConfig
from distilray.config.evaluation import EvaluateBiasConfig, MeasureEfficiencyConfig
from distilray.errors import InputError
from distilray.operations.doctor import recipe_checks
from distilray.operations.doctor.recipe_checks import (
    check_locations,
    check_models,
    check_runs,
    check_store,
    required_inputs,
)
from distilray.runtime import storage
from distilray.runtime.file_search import find_files


class Reads(JobConfig):
    """A job that reads a run, a model and a tokenizer."""

    shards_dir: Shards | None = None
    teacher_dir: ModelRef | None = None
    tokenizer_dir: Tokenizer | None = None


def reads(**locations: str) -> Reads:
    return Reads.model_validate({"run_dir": "r", **locations})


def copy(source: str, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_the_runs_and_models_of_a_recipe_are_known_by_key():
    values = {"run_dir": "r", "shards_dir": "s", "teacher_dir": "t", "teacher_cache_dir": "c"}
    config = DistillConfig.model_validate(values)
    assert required_inputs(config, "run") == {"shards_dir": "s", "teacher_cache_dir": "c"}
    assert required_inputs(config, "model") == {"teacher_dir": "t"}
    bias = EvaluateBiasConfig.model_validate({"run_dir": "r", "models": {"a": "x"}})
    assert required_inputs(bias, "model") == {"models.a": "x"}
    rows = {"run_dir": "r", "text_path": "t", "models": [{"name": "a", "model_dir": "x"}]}
    assert required_inputs(MeasureEfficiencyConfig.model_validate(rows), "model") == {"models.0.model_dir": "x"}


def test_a_complete_run_and_an_undamaged_model_are_ok(shards_dir, teacher_dir):
    assert check_runs(reads(shards_dir=shards_dir)).status == "ok"
    finding = check_models(reads(teacher_dir=teacher_dir, tokenizer_dir=teacher_dir), offline=True)
    assert (finding.status, "bert" in finding.message) == ("ok", True)


def test_a_recipe_that_reads_nothing_is_fine():
    assert check_runs(reads()).status == check_models(reads(), offline=True).status == "ok"


def test_a_run_without_a_manifest_fails(shards_dir, tmp_path):
    folder = copy(shards_dir, tmp_path / "shards")
    (folder / "manifest.json").unlink()
    finding = check_runs(reads(shards_dir=str(folder)))
    assert (finding.status, "no manifest.json" in finding.message, bool(finding.fix)) == ("fail", True, True)


@pytest.mark.parametrize(("damage", "words"), [("missing", "is missing"), ("torn", "bytes, not")])
def test_a_missing_or_truncated_shard_fails_and_is_named(shards_dir, tmp_path, damage, words):
    folder = copy(shards_dir, tmp_path / "shards")
    file = min((folder / "shards").glob("*.arrow"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    finding = check_runs(reads(shards_dir=str(folder)))
    assert finding.status == "fail"
    assert file.name in finding.message
    assert words in finding.message


@pytest.mark.parametrize("inner", ["model", "data/model"])
def test_a_model_inside_a_run_or_a_folder_of_mlflow_is_fine(teacher_dir, tmp_path, inner):
    copy(teacher_dir, tmp_path / "outer" / inner)
    assert check_models(reads(teacher_dir=str(tmp_path / "outer")), offline=True).status == "ok"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_lacks_a_file_fails(teacher_dir, tmp_path, name):
    folder = copy(teacher_dir, tmp_path / "teacher")
    (folder / name).unlink()
    finding = check_models(reads(teacher_dir=str(folder)), offline=True)
    assert (finding.status, f"no {name}" in finding.message) == ("fail", True)
    assert check_models(reads(tokenizer_dir=str(folder)), offline=True).status == (
        "fail" if name == "tokenizer.json" else "ok"
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"<html>" * 99])
def test_damaged_weights_fail(teacher_dir, tmp_path, damage):
    folder = copy(teacher_dir, tmp_path / "teacher")
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    finding = check_models(reads(teacher_dir=str(folder)), offline=True)
    assert (finding.status, "model.safetensors" in finding.message) == ("fail", True)


def test_a_config_that_is_no_json_fails(teacher_dir, tmp_path):
    folder = copy(teacher_dir, tmp_path / "teacher")
    (folder / "config.json").write_text("{")
    assert check_models(reads(teacher_dir=str(folder)), offline=True).status == "fail"


def test_a_run_that_holds_a_model_is_a_model(teacher_dir, tmp_path):
    copy(teacher_dir, tmp_path / "run/model")
    assert check_models(reads(teacher_dir=str(tmp_path / "run")), offline=True).status == "ok"


def test_a_model_in_an_object_store_is_checked_without_a_download(teacher_dir, bucket, monkeypatch):
    for file in Path(teacher_dir).iterdir():
        storage.write_bytes(f"{bucket}/teacher/{file.name}", file.read_bytes())
    whole, read = Path(teacher_dir, "model.safetensors").stat().st_size, []
    ranges = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda uri, *ends: read.append(ends[1]) or ranges(uri, *ends))
    assert check_models(reads(teacher_dir=f"{bucket}/teacher"), offline=True).status == "ok"
    assert 0 < max(read) < whole


@pytest.mark.parametrize(("offline", "status"), [(True, "fail"), (False, "warn")])
def test_a_model_of_the_hub_that_is_not_cached_is_reported(tmp_path, monkeypatch, offline, status):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    finding = check_models(reads(teacher_dir="hub:nobody/no-such-model"), offline=offline)
    assert (finding.status, "hf download nobody/no-such-model" in finding.fix) == (status, True)


def test_a_model_of_the_hub_that_is_in_the_cache_is_fine(tmp_path, monkeypatch, teacher_dir):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **options: teacher_dir)
    assert check_models(reads(teacher_dir="hub:some/model@main"), offline=True).status == "ok"


def test_paths_of_other_machines_are_not_reported_as_missing():
    for finding in (
        check_runs(reads(shards_dir="/no/such/shards"), outside=True),
        check_models(reads(teacher_dir="/no/such/teacher"), offline=True, outside=True),
    ):
        assert (finding.status, "ray job submit" in finding.fix) == ("warn", True)


@pytest.mark.parametrize(
    ("mounts", "status"), [("/dev/sda / xfs rw 0 0", "warn"), ("nfs:/ / nfs4 rw 0 0", "ok"), (None, "ok")]
)
def test_a_disk_of_one_machine_is_a_warning_inside_of_a_cluster(mounts, status):
    values = {"run_dir": "/mnt/run", "shards_dir": "s3://bucket/shards", "teacher_dir": "hub:a/b"}
    assert check_locations(DistillConfig.model_validate(values), mounts).status == status


def keys(bucket: str) -> str:
    """Return all keys in the bucket, including folders."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}?list-type=2"
    return urllib.request.urlopen(url).read().decode().partition("<Contents>")[2]


@pytest.mark.parametrize("folder", ["", "/run", "/a/b/run"])
def test_the_check_leaves_no_trace_in_a_writable_folder(tmp_path, folder):
    (tmp_path / "kept").write_text("x")
    finding = check_store(f"{tmp_path}{folder}")
    assert (finding.status, str(tmp_path) in finding.message) == ("ok", True)
    assert [file.name for file in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("folder", ["", "/run", "/a/b/run"])
def test_the_check_leaves_no_trace_in_a_bucket(bucket, folder):
    assert check_store(f"{bucket}{folder}").status == "ok"
    assert keys(bucket) == ""


def test_an_existing_run_is_not_changed(bucket):
    storage.write_bytes(f"{bucket}/runs/one/file", b"x")
    assert check_store(f"{bucket}/runs/two").status == "ok"
    assert check_store(f"{bucket}/runs/one").status == "ok"
    assert find_files(f"{bucket}/runs") == [f"{bucket}/runs/one/file"]


def test_files_written_by_others_during_the_check_are_not_removed(bucket, tmp_path, monkeypatch):
    for uri in (f"{bucket}/run", f"{tmp_path}/run"):

        def meanwhile(probe: str, uri: str, name: str) -> str:
            storage.write_bytes(f"{uri}/of-another", b"x")
            return ""

        with monkeypatch.context() as patch:
            patch.setattr(recipe_checks, "_write_and_read", meanwhile)
            assert check_store(uri).status == "ok"
        assert storage.read_bytes(f"{uri}/of-another") == b"x"


def test_a_missing_bucket_fails_in_one_line(bucket):
    finding = check_store("s3://no-such-bucket/run")
    assert (finding.status, "no-such-bucket" in finding.message) == ("fail", True)
    assert finding.fix


def test_a_path_through_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("x")
    finding = check_store(f"{tmp_path}/file/run")
    assert (finding.status, "Not a directory" in finding.message) == ("fail", True)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("function", "value", "words"),
    [
        ("read_bytes", lambda uri: b"other", "differs"),
        ("list_files", lambda uri: [], "not listed"),
        ("remove_file", lambda uri: None, "still exists"),
    ],
)
def test_a_store_without_consistent_reads_fails(tmp_path, monkeypatch, function, value, words):
    monkeypatch.setattr(storage, function, value)
    finding = check_store(str(tmp_path / "run"))
    assert (finding.status, words in finding.message) == ("fail", True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "no permission for user"),
        (errno.EPERM, "no permission for user"),
        (errno.ENOSPC, "no space"),
        (errno.EDQUOT, "no space"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_missing_permissions_and_missing_space_are_distinguished(tmp_path, monkeypatch, code, words):
    def refuse(uri: str, data: bytes) -> None:
        try:
            raise OSError(code, os.strerror(code))
        except OSError:
            raise InputError(f"{uri}: cannot be written") from None

    monkeypatch.setattr(storage, "write_bytes", refuse)
    finding = check_store(str(tmp_path / "run"))
    assert (finding.status, words in finding.message) == ("fail", True)
    assert ("space" in finding.fix) == (words == "no space")


def test_the_folder_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir(mode=0o700)

    def refuse(uri: str) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    def access(path: object, mode: int) -> bool:  # as for a user who may not enter the folder
        return "closed/" not in str(path) and not (mode == os.X_OK and str(path).endswith("closed"))

    monkeypatch.setattr(storage, "exists", refuse)
    monkeypatch.setattr(recipe_checks.os, "access", access)
    finding = check_store(f"{tmp_path}/closed/a/run")
    assert f"{tmp_path}/closed has mode drwx------ and belongs to user {os.getuid()}" in finding.message
