import json
import time
from pathlib import Path
from typing import Annotated
from unittest.mock import ANY

import pytest
import yaml
from pydantic import Field

from distilray.config.base import Config, RayConfig, RayJobConfig, SeededConfig
from distilray.errors import InputError
from distilray.runtime import run_folder, storage
from distilray.runtime.file_search import find_files
from distilray.runtime.run_folder import RunFolder, describe_input, read_manifest


class Model(Config):
    layers: int = 6
    dropout: Annotated[float, Field(ge=0)] = 1e-05


class Recipe(SeededConfig, RayJobConfig):
    model: Model = Model()


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    file = tmp_path / "dump.xml"
    file.write_bytes(b"<mediawiki/>")
    return file


def folder_of(run_dir: Path, dump: Path, job: str = "distill", **changes: object) -> RunFolder:
    return RunFolder(job, Recipe(run_dir=str(run_dir), **changes), {"dump": str(dump)})


def finished(run_dir: Path, dump: Path, **changes: object) -> dict[str, object]:
    folder = folder_of(run_dir, dump, **changes)
    folder.begin()
    return folder.finish({"rows": 3, "timing": {"read_s": time.time()}}, {"rows": 3}, "3 rows")


def test_a_run_is_complete_when_its_manifest_is_there(tmp_path: Path, dump: Path) -> None:
    folder = folder_of(tmp_path / "run", dump)
    assert folder.complete_manifest() is None
    folder.begin()
    assert folder.complete_manifest() is None
    written = folder.finish({}, {}, "done")
    assert folder.complete_manifest() == written == read_manifest(folder.uri)


def test_making_a_run_folder_object_writes_nothing(tmp_path: Path, dump: Path) -> None:
    folder_of(tmp_path / "run", dump).complete_manifest()
    assert not (tmp_path / "run").exists()


def test_the_config_is_written_before_the_run_with_every_value(tmp_path: Path, dump: Path) -> None:
    folder = folder_of(tmp_path / "run", dump)
    folder.begin()
    record = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert Recipe.model_validate(record["config"]) == folder.config


def test_the_content_hash_does_not_depend_on_time_place_or_workers(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finished(tmp_path / "a", dump)
    monkeypatch.setattr(run_folder.time, "time", lambda: 4e9)
    moved = dump.rename(tmp_path / "moved.xml")
    second = finished(tmp_path / "b", moved, ray=RayConfig(num_cpus=1))
    assert first["content_hash"] == second["content_hash"]
    assert first["run"] != second["run"]


def test_the_content_hash_depends_on_config_inputs_and_counts(tmp_path: Path, dump: Path) -> None:
    hashes = [finished(tmp_path / "a", dump)["content_hash"], finished(tmp_path / "b", dump, seed=1)["content_hash"]]
    dump.write_bytes(b"longer than before")
    hashes.append(finished(tmp_path / "c", dump)["content_hash"])
    folder = folder_of(tmp_path / "d", dump)
    folder.begin()
    hashes.append(folder.finish({"rows": 4}, {"rows": 3}, "")["content_hash"])
    assert len(set(hashes)) == 4


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "begun"])
def test_a_folder_of_another_config_is_refused_with_the_key(tmp_path: Path, dump: Path, complete: bool) -> None:
    finished(tmp_path / "run", dump)
    if not complete:
        (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"run: contains a run with different model.layers, seed; delete"):
        folder_of(tmp_path / "run", dump, seed=1, model=Model(layers=3)).complete_manifest()


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "begun"])
def test_a_folder_made_from_another_input_is_refused_with_its_name(tmp_path: Path, dump: Path, complete: bool) -> None:
    finished(tmp_path / "run", dump)
    if not complete:
        (tmp_path / "run" / "manifest.json").unlink()
    dump.write_bytes(b"another")
    with pytest.raises(InputError, match=r"run: contains a run with another input \(dump"):
        folder_of(tmp_path / "run", dump).complete_manifest()


def test_a_folder_of_another_job_is_refused(tmp_path: Path, dump: Path) -> None:
    finished(tmp_path / "run", dump)
    with pytest.raises(InputError, match="contains a run of distill, not of encode_corpus"):
        folder_of(tmp_path / "run", dump, job="encode_corpus").complete_manifest()


def test_an_incomplete_run_resumes_with_the_same_config(tmp_path: Path, dump: Path) -> None:
    # 1e-05 and its like must survive the YAML of config.yaml.
    folder_of(tmp_path / "run", dump).begin()
    assert folder_of(tmp_path / "run", dump).complete_manifest() is None


def test_other_workers_do_not_make_another_run(tmp_path: Path, dump: Path) -> None:
    finished(tmp_path / "run", dump)
    assert folder_of(tmp_path / "run", dump, ray=RayConfig(num_cpus=1)).complete_manifest() is not None


@pytest.mark.parametrize("text", ["", "a: [", "hello", "job: distill", "job: distill\nidentity: 3", "\udcff"])
def test_a_foreign_config_file_is_refused(tmp_path: Path, dump: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match="not written by this version of a job"):
        folder_of(tmp_path, dump).complete_manifest()


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_torn_manifest_is_refused(tmp_path: Path, dump: Path, length: int) -> None:
    finished(tmp_path / "run", dump)
    file = tmp_path / "run" / "manifest.json"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match="not JSON; delete the folder"):
        read_manifest(str(tmp_path / "run"))


@pytest.mark.parametrize("value", [[], "text", {}, {"schema": 1}, {"schema": 2}])
def test_a_manifest_of_another_schema_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="not a manifest of schema 2"):
        read_manifest(str(tmp_path))


def test_a_run_of_an_earlier_version_is_refused_with_the_fix(tmp_path: Path, dump: Path) -> None:
    finished(tmp_path / "run", dump)
    file = tmp_path / "run" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 1}))
    with pytest.raises(InputError, match=r"not a manifest of schema 2 .*; delete the folder and run its job again"):
        folder_of(tmp_path / "run", dump).complete_manifest()


def test_an_incomplete_run_of_an_earlier_version_is_refused(tmp_path: Path, dump: Path) -> None:
    folder_of(tmp_path / "run", dump).begin()
    file = tmp_path / "run" / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "schema": 1}))
    with pytest.raises(InputError, match="not written by this version of a job"):
        folder_of(tmp_path / "run", dump).complete_manifest()


def test_an_incomplete_run_is_rejected_as_input(tmp_path: Path, dump: Path) -> None:
    folder_of(tmp_path / "run", dump).begin()
    with pytest.raises(InputError, match="no complete run"):
        read_manifest(str(tmp_path / "run"))


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such file or folder"):
        folder_of(tmp_path / "run", tmp_path / "absent")


def test_an_input_is_known_by_its_content(tmp_path: Path, dump: Path) -> None:
    made = finished(tmp_path / "run", dump)
    assert describe_input(str(tmp_path / "run")) == {"content_hash": made["content_hash"]}
    assert describe_input(str(dump)) == {"bytes": 12, "fingerprint": ANY}
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a").write_bytes(b"123")
    (tmp_path / "books" / "b").write_bytes(b"4567")
    assert describe_input(str(tmp_path / "books")) == {"bytes": 7, "fingerprint": ANY}


def test_an_empty_file_is_an_input_of_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert describe_input(str(tmp_path / "empty")) == {"bytes": 0, "fingerprint": ANY}


def test_the_manifest_records_versions_and_commit(tmp_path: Path, dump: Path) -> None:
    run = finished(tmp_path / "run", dump)["run"]
    assert {"python", "distilray", "ray", "torch", "transformers"} <= set(run["versions"])
    assert "git_commit" in run


def test_a_manifest_that_cannot_be_written_leaves_no_manifest(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "run", dump)
    folder.begin()
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(InputError, match="full"):
        folder.finish({}, {}, "")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.yaml"]


def test_strays_of_an_inner_folder_go_and_the_outputs_of_the_run_stay(tmp_path: Path, dump: Path) -> None:
    folder = folder_of(tmp_path / "run", dump)
    for name in ("shards/kept", "shards/stray", "stray"):
        storage.write_bytes(folder.path(name), b"")
    folder.remove_leftovers("shards", {"shards/kept": {}})
    assert [uri.removeprefix(f"{folder.uri}/") for uri in find_files(folder.uri)] == ["shards/kept", "stray"]


def test_a_changed_input_of_equal_size_is_another_input(tmp_path: Path) -> None:
    file = tmp_path / "dump.xml"
    file.write_text("one")
    before = describe_input(str(file))
    file.write_text("two")
    assert describe_input(str(file)) != before
