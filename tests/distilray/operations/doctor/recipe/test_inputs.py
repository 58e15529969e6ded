import shutil
from pathlib import Path

import pytest

from distilray.config.bias import EvaluateBiasConfig
from distilray.config.distillation import DistillConfig
from distilray.config.efficiency import MeasureEfficiencyConfig
from distilray.operations.doctor.recipe.inputs import check_folders, check_models, check_runs, locations_of, model_bytes
from distilray.runtime import storage


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
    assert check_runs({"shards_dir": shards_dir}).status == "ok"
    found = check_models({"teacher_dir": teacher_dir}, {"tokenizer_dir": teacher_dir}, offline=True)
    assert (found.status, "bert" in found.found) == ("ok", True)


def test_a_recipe_that_reads_nothing_is_fine():
    assert check_runs({}).status == check_models({}, {}, offline=True).status == "ok"


def test_a_run_without_a_manifest_fails(shards_dir, tmp_path):
    folder = copy(shards_dir, tmp_path / "shards")
    (folder / "manifest.json").unlink()
    found = check_runs({"shards_dir": str(folder)})
    assert (found.status, "no manifest.json" in found.found, bool(found.fix)) == ("fail", True, True)


@pytest.mark.parametrize(("damage", "told"), [("missing", "is missing"), ("torn", "bytes, not")])
def test_a_missing_or_torn_shard_fails_and_is_named(shards_dir, tmp_path, damage, told):
    folder = copy(shards_dir, tmp_path / "shards")
    file = min((folder / "shards").glob("*.arrow"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    found = check_runs({"shards_dir": str(folder)})
    assert found.status == "fail"
    assert file.name in found.found
    assert told in found.found


@pytest.mark.parametrize("inner", ["model", "data/model"])
def test_a_model_inside_a_run_or_a_folder_of_mlflow_is_fine(teacher_dir, tmp_path, inner):
    copy(teacher_dir, tmp_path / "outer" / inner)
    assert check_models({"teacher_dir": str(tmp_path / "outer")}, {}, offline=True).status == "ok"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_lacks_a_file_fails(teacher_dir, tmp_path, name):
    folder = copy(teacher_dir, tmp_path / "teacher")
    (folder / name).unlink()
    found = check_models({"teacher_dir": str(folder)}, {}, offline=True)
    assert (found.status, f"no {name}" in found.found) == ("fail", True)
    assert check_models({}, {"tokenizer_dir": str(folder)}, offline=True).status == (
        "fail" if name == "tokenizer.json" else "ok"
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"<html>" * 99])
def test_torn_weights_fail(teacher_dir, tmp_path, damage):
    folder = copy(teacher_dir, tmp_path / "teacher")
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    found = check_models({"teacher_dir": str(folder)}, {}, offline=True)
    assert (found.status, "model.safetensors" in found.found) == ("fail", True)


def test_a_config_that_is_no_json_fails(teacher_dir, tmp_path):
    folder = copy(teacher_dir, tmp_path / "teacher")
    (folder / "config.json").write_text("{")
    assert check_models({"teacher_dir": str(folder)}, {}, offline=True).status == "fail"


def test_a_run_that_holds_a_model_is_a_model(teacher_dir, tmp_path):
    copy(teacher_dir, tmp_path / "run/model")
    assert check_models({"teacher_dir": str(tmp_path / "run")}, {}, offline=True).status == "ok"
    assert model_bytes(str(tmp_path / "run")) == Path(teacher_dir, "model.safetensors").stat().st_size
    assert model_bytes("hub:a/b") is None


def test_a_model_in_an_object_store_is_looked_at_and_not_fetched(teacher_dir, bucket, monkeypatch):
    for file in Path(teacher_dir).iterdir():
        storage.write_bytes(f"{bucket}/teacher/{file.name}", file.read_bytes())
    whole, read = Path(teacher_dir, "model.safetensors").stat().st_size, []
    ranges = storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda uri, *ends: read.append(ends[1]) or ranges(uri, *ends))
    assert check_models({"teacher_dir": f"{bucket}/teacher"}, {}, offline=True).status == "ok"
    assert 0 < max(read) < whole


@pytest.mark.parametrize(("offline", "status"), [(True, "fail"), (False, "warn")])
def test_a_model_of_the_hub_that_is_not_in_the_cache_is_told(tmp_path, monkeypatch, offline, status):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = check_models({"teacher_dir": "hub:nobody/no-such-model"}, {}, offline=offline)
    assert (found.status, "hf download nobody/no-such-model" in found.fix) == (status, True)


def test_a_model_of_the_hub_that_is_in_the_cache_is_fine(tmp_path, monkeypatch, teacher_dir):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **options: teacher_dir)
    assert check_models({"teacher_dir": "hub:some/model@main"}, {}, offline=True).status == "ok"


def test_paths_of_other_machines_are_not_said_to_be_missing():
    for found in (
        check_runs({"shards_dir": "/no/such/shards"}, outside=True),
        check_models({"teacher_dir": "/no/such/teacher"}, {}, offline=True, outside=True),
    ):
        assert (found.status, "ray job submit" in found.fix) == ("warn", True)


@pytest.mark.parametrize(
    ("mounts", "status"), [("/dev/sda / xfs rw 0 0", "warn"), ("nfs:/ / nfs4 rw 0 0", "ok"), (None, "ok")]
)
def test_a_disk_of_one_machine_is_a_warning_inside_of_a_cluster(mounts, status):
    given = {"run_dir": "/mnt/run", "shards_dir": "s3://bucket/shards", "teacher_dir": "hub:a/b"}
    assert check_folders(DistillConfig.model_validate(given), mounts).status == status
