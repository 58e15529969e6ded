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
from distilray.operations.doctor import recipe
from distilray.operations.doctor.recipe import check_folders, check_models, check_runs, check_store, locations_of
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
    given = {"run_dir": "r", "shards_dir": "s", "teacher_dir": "t", "teacher_cache_dir": "c"}
    config = DistillConfig.model_validate(given)
    assert locations_of(config, "run") == {"shards_dir": "s", "teacher_cache_dir": "c"}
    assert locations_of(config, "model") == {"teacher_dir": "t"}
    bias = EvaluateBiasConfig.model_validate({"run_dir": "r", "models": {"a": "x"}})
    assert locations_of(bias, "model") == {"models.a": "x"}
    rows = {"run_dir": "r", "text_path": "t", "models": [{"name": "a", "model_dir": "x"}]}
    assert locations_of(MeasureEfficiencyConfig.model_validate(rows), "model") == {"models.0.model_dir": "x"}


def test_a_complete_run_and_a_whole_model_are_fine(shards_dir, teacher_dir):
    assert check_runs(reads(shards_dir=shards_dir)).status == "ok"
    found = check_models(reads(teacher_dir=teacher_dir, tokenizer_dir=teacher_dir), offline=True)
    assert (found.status, "bert" in found.found) == ("ok", True)


def test_a_recipe_that_reads_nothing_is_fine():
    assert check_runs(reads()).status == check_models(reads(), offline=True).status == "ok"


def test_a_run_without_a_manifest_fails(shards_dir, tmp_path):
    folder = copy(shards_dir, tmp_path / "shards")
    (folder / "manifest.json").unlink()
    found = check_runs(reads(shards_dir=str(folder)))
    assert (found.status, "no manifest.json" in found.found, bool(found.fix)) == ("fail", True, True)


@pytest.mark.parametrize(("damage", "told"), [("missing", "is missing"), ("torn", "bytes, not")])
def test_a_missing_or_torn_shard_fails_and_is_named(shards_dir, tmp_path, damage, told):
    folder = copy(shards_dir, tmp_path / "shards")
    file = min((folder / "shards").glob("*.arrow"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    found = check_runs(reads(shards_dir=str(folder)))
    assert found.status == "fail"
    assert file.name in found.found
    assert told in found.found


@pytest.mark.parametrize("inner", ["model", "data/model"])
def test_a_model_inside_a_run_or_a_folder_of_mlflow_is_fine(teacher_dir, tmp_path, inner):
    copy(teacher_dir, tmp_path / "outer" / inner)
    assert check_models(reads(teacher_dir=str(tmp_path / "outer")), offline=True).status == "ok"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_lacks_a_file_fails(teacher_dir, tmp_path, name):
    folder = copy(teacher_dir, tmp_path / "teacher")
    (folder / name).unlink()
    found = check_models(reads(teacher_dir=str(folder)), offline=True)
    assert (found.status, f"no {name}" in found.found) == ("fail", True)
    assert check_models(reads(tokenizer_dir=str(folder)), offline=True).status == (
        "fail" if name == "tokenizer.json" else "ok"
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"<html>" * 99])
def test_torn_weights_fail(teacher_dir, tmp_path, damage):
    folder = copy(teacher_dir, tmp_path / "teacher")
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    found = check_models(reads(teacher_dir=str(folder)), offline=True)
    assert (found.status, "model.safetensors" in found.found) == ("fail", True)


def test_a_config_that_is_no_json_fails(teacher_dir, tmp_path):
    folder = copy(teacher_dir, tmp_path / "teacher")
    (folder / "config.json").write_text("{")
    assert check_models(reads(teacher_dir=str(folder)), offline=True).status == "fail"


def test_a_run_that_holds_a_model_is_a_model(teacher_dir, tmp_path):
    copy(teacher_dir, tmp_path / "run/model")
    assert check_models(reads(teacher_dir=str(tmp_path / "run")), offline=True).status == "ok"


def test_a_model_in_an_object_store_is_looked_at_and_not_fetched(teacher_dir, bucket, monkeypatch):
    for file in Path(teacher_dir).iterdir():
        storage.write_bytes(f"{bucket}/teacher/{file.name}", file.read_bytes())
    whole, read = Path(teacher_dir, "model.safetensors").stat().st_size, []
    ranges = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda uri, *ends: read.append(ends[1]) or ranges(uri, *ends))
    assert check_models(reads(teacher_dir=f"{bucket}/teacher"), offline=True).status == "ok"
    assert 0 < max(read) < whole


@pytest.mark.parametrize(("offline", "status"), [(True, "fail"), (False, "warn")])
def test_a_model_of_the_hub_that_is_not_in_the_cache_is_told(tmp_path, monkeypatch, offline, status):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = check_models(reads(teacher_dir="hub:nobody/no-such-model"), offline=offline)
    assert (found.status, "hf download nobody/no-such-model" in found.fix) == (status, True)


def test_a_model_of_the_hub_that_is_in_the_cache_is_fine(tmp_path, monkeypatch, teacher_dir):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **options: teacher_dir)
    assert check_models(reads(teacher_dir="hub:some/model@main"), offline=True).status == "ok"


def test_paths_of_other_machines_are_not_said_to_be_missing():
    for found in (
        check_runs(reads(shards_dir="/no/such/shards"), outside=True),
        check_models(reads(teacher_dir="/no/such/teacher"), offline=True, outside=True),
    ):
        assert (found.status, "ray job submit" in found.fix) == ("warn", True)


@pytest.mark.parametrize(
    ("mounts", "status"), [("/dev/sda / xfs rw 0 0", "warn"), ("nfs:/ / nfs4 rw 0 0", "ok"), (None, "ok")]
)
def test_a_disk_of_one_machine_is_a_warning_inside_of_a_cluster(mounts, status):
    given = {"run_dir": "/mnt/run", "shards_dir": "s3://bucket/shards", "teacher_dir": "hub:a/b"}
    assert check_folders(DistillConfig.model_validate(given), mounts).status == status


def keys(bucket: str) -> str:
    """All that the S3 server of the test holds, folders included."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}?list-type=2"
    return urllib.request.urlopen(url).read().decode().partition("<Contents>")[2]


@pytest.mark.parametrize("place", ["", "/run", "/a/b/run"])
def test_a_folder_that_can_be_written_is_as_it_was_before(tmp_path, place):
    (tmp_path / "kept").write_text("x")
    found = check_store(f"{tmp_path}{place}")
    assert (found.status, str(tmp_path) in found.found) == ("ok", True)
    assert [file.name for file in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("place", ["", "/run", "/a/b/run"])
def test_a_bucket_is_as_it_was_before(bucket, place):
    assert check_store(f"{bucket}{place}").status == "ok"
    assert keys(bucket) == ""


def test_a_run_that_is_there_stays(bucket):
    storage.write_bytes(f"{bucket}/runs/one/file", b"x")
    assert check_store(f"{bucket}/runs/two").status == "ok"
    assert check_store(f"{bucket}/runs/one").status == "ok"
    assert find_files(f"{bucket}/runs") == [f"{bucket}/runs/one/file"]


def test_what_somebody_writes_meanwhile_is_not_removed(bucket, tmp_path, monkeypatch):
    for uri in (f"{bucket}/run", f"{tmp_path}/run"):

        def meanwhile(probe: str, uri: str, name: str) -> str:
            storage.write_bytes(f"{uri}/of-another", b"x")
            return ""

        with monkeypatch.context() as patch:
            patch.setattr(recipe, "_try_out", meanwhile)
            assert check_store(uri).status == "ok"
        assert storage.read_bytes(f"{uri}/of-another") == b"x"


def test_a_bucket_that_is_not_there_fails_in_one_line(bucket):
    found = check_store("s3://no-such-bucket/run")
    assert (found.status, "no-such-bucket" in found.found) == ("fail", True)
    assert found.fix


def test_a_place_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    found = check_store(f"{tmp_path}/file/run")
    assert (found.status, "Not a directory" in found.found) == ("fail", True)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("function", "value", "told"),
    [
        ("read_bytes", lambda uri: b"other", "something else"),
        ("list_files", lambda uri: [], "not listed"),
        ("remove_file", lambda uri: None, "still there"),
    ],
)
def test_a_store_that_does_not_show_what_was_done_fails(tmp_path, monkeypatch, function, value, told):
    monkeypatch.setattr(storage, function, value)
    found = check_store(str(tmp_path / "run"))
    assert (found.status, told in found.found) == ("fail", True)


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
def test_permissions_and_space_are_told_apart(tmp_path, monkeypatch, code, words):
    def refuse(uri: str, data: bytes) -> None:
        try:
            raise OSError(code, os.strerror(code))
        except OSError:
            raise InputError(f"{uri}: cannot be written") from None

    monkeypatch.setattr(storage, "write_bytes", refuse)
    found = check_store(str(tmp_path / "run"))
    assert (found.status, words in found.found) == ("fail", True)
    assert ("space" in found.fix) == (words == "no space")


def test_the_folder_that_refuses_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir(mode=0o700)

    def refuse(uri: str) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    def access(path: object, mode: int) -> bool:  # as for a user who may not enter the folder
        return "closed/" not in str(path) and not (mode == os.X_OK and str(path).endswith("closed"))

    monkeypatch.setattr(storage, "exists", refuse)
    monkeypatch.setattr(recipe.os, "access", access)
    found = check_store(f"{tmp_path}/closed/a/run")
    assert f"{tmp_path}/closed is drwx------ of user {os.getuid()}" in found.found
