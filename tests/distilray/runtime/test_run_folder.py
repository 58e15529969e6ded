import json
from typing import Annotated
from unittest.mock import Mock

import pytest
import yaml
from pydantic import Field

from distilray.config.base import Config, RayConfig, RayJobConfig, SeededConfig
from distilray.errors import InputError
from distilray.runtime import run_folder, storage
from distilray.runtime.file_search import find_files
from distilray.runtime.run_folder import RunFolder, RunMismatchError, describe_input, is_complete, read_manifest


class Model(Config):
    layers: int = 6
    dropout: Annotated[float, Field(ge=0)] = 1e-05  # must survive the YAML of config.yaml


class Recipe(SeededConfig, RayJobConfig):
    model: Model = Model()


@pytest.fixture
def dump(tmp_path):
    file = tmp_path / "dump.xml"
    file.write_bytes(b"<mediawiki/>")
    return file


def folder_of(run_dir, dump, job="distill", **changes):
    return RunFolder(job, Recipe(run_dir=str(run_dir), **changes), {"dump": str(dump)})


def finished(run_dir, dump):
    folder = folder_of(run_dir, dump)
    folder.begin()
    folder.finish({"rows": 3, "timing": {"read_s": 2.5}}, {"rows": 3}, "3 rows")
    return folder


def test_a_run_is_complete_once_its_manifest_exists(tmp_path, dump):
    folder = folder_of(tmp_path / "run", dump)
    assert folder.complete_manifest() is None
    assert not (tmp_path / "run").exists()
    folder.begin()
    assert folder_of(tmp_path / "run", dump).complete_manifest() is None
    assert not is_complete(folder.uri)
    manifest = folder.finish({}, {}, "done")
    other_workers = folder_of(tmp_path / "run", dump, ray=RayConfig(num_cpus=1))
    assert other_workers.complete_manifest() == manifest == read_manifest(folder.uri)


def test_the_config_is_written_before_the_run_with_every_value(tmp_path, dump):
    folder = folder_of(tmp_path / "run", dump)
    folder.begin()
    record = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert Recipe.model_validate(record["config"]) == folder.config


def test_the_manifest_records_the_environment_apart_from_the_content(tmp_path, dump):
    manifest = read_manifest(finished(tmp_path / "run", dump).uri)
    assert manifest["content"]["counts"] == {"rows": 3}
    record = manifest["run"]
    assert (record["summary"], record["timing"], record["inputs"]) == ("3 rows", {"read_s": 2.5}, {"dump": str(dump)})
    assert {"python", "distilray", "ray", "torch", "transformers"} <= set(record["versions"])
    assert "git_commit" in record


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "begun"])
@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({"seed": 1, "model": Model(layers=3)}, b"<mediawiki/>", "a run with different model.layers, seed; delete"),
        ({}, b"another", r"a run with another input \(dump"),
        ({"job": "encode_corpus"}, b"<mediawiki/>", "a run of distill, not of encode_corpus; choose another run_dir"),
    ],
    ids=["config", "input", "job"],
)
def test_a_folder_with_another_run_is_refused(tmp_path, dump, complete, changes, content, message):
    finished(tmp_path / "run", dump)
    if not complete:
        (tmp_path / "run/manifest.json").unlink()
    dump.write_bytes(content)
    with pytest.raises(InputError, match=f"run: contains {message}") as raised:
        folder_of(tmp_path / "run", dump, **changes).complete_manifest()
    assert isinstance(raised.value, RunMismatchError) == ("job" not in changes)


@pytest.mark.parametrize(
    "text", ["", "a: [", "hello", "job: distill", "job: distill\nidentity: 3", "\udcff", "EARLIER SCHEMA"]
)
def test_a_foreign_config_file_is_refused(tmp_path, dump, text):
    folder_of(tmp_path, dump).begin()
    file = tmp_path / "config.yaml"
    earlier = yaml.safe_dump({**yaml.safe_load(file.read_text()), "schema": 1})
    file.write_text(earlier if text == "EARLIER SCHEMA" else text, errors="surrogateescape")
    with pytest.raises(InputError, match="not written by this version of a job"):
        folder_of(tmp_path, dump).complete_manifest()


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_torn_manifest_is_refused(tmp_path, dump, length):
    file = tmp_path / "run/manifest.json"
    finished(tmp_path / "run", dump)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match="not JSON; delete the folder"):
        read_manifest(str(tmp_path / "run"))


CONTENT = {"job": "distill", "outputs": {}}


@pytest.mark.parametrize(
    "value",
    [
        *([], "text", {}, {"schema": 2}, {"schema": 2, "content": CONTENT}, {"content_hash": "x", "content": CONTENT}),
        *({"schema": 2, "content_hash": "x", "content": content} for content in (3, {"job": "x"}, {"outputs": {}})),
        {"schema": 2, "content_hash": "x", "content": {"job": "x", "outputs": []}},
        {"schema": 1, "content_hash": "x", "content": CONTENT},
    ],
)
def test_a_manifest_with_another_schema_is_refused(tmp_path, value):
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"not a manifest of schema 2 .*; delete the folder and run its job again"):
        read_manifest(str(tmp_path))


def test_a_run_of_another_job_and_an_incomplete_run_are_refused_as_input(tmp_path, dump):
    finished(tmp_path / "run", dump)
    assert read_manifest(str(tmp_path / "run"), "distill")
    with pytest.raises(InputError, match=r"written by distill, not by build_corpus; name a run of jobs\.build_corpus"):
        read_manifest(str(tmp_path / "run"), "build_corpus")
    (tmp_path / "run/manifest.json").unlink()
    with pytest.raises(InputError, match="no complete run"):
        read_manifest(str(tmp_path / "run"))


def test_a_missing_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="absent: no such file or folder"):
        folder_of(tmp_path / "run", tmp_path / "absent")


def test_a_manifest_that_cannot_be_written_leaves_no_manifest(tmp_path, dump, monkeypatch):
    folder = folder_of(tmp_path / "run", dump)
    folder.begin()
    monkeypatch.setattr(storage.os, "fsync", Mock(side_effect=OSError(28, "full")))
    with pytest.raises(InputError, match="full"):
        folder.finish({}, {}, "")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_an_archived_run_gets_the_next_free_number(tmp_path, dump):
    (tmp_path / "run.1").mkdir()
    assert finished(tmp_path / "run", dump).archive() == f"{tmp_path}/run.2"
    assert is_complete(f"{tmp_path}/run.2")
    assert not (tmp_path / "run").exists()


def test_leftovers_in_a_subfolder_are_removed_but_not_the_outputs_of_the_run(tmp_path, dump):
    folder = folder_of(tmp_path / "run", dump)
    for name in ("shards/output", "shards/stray", "stray"):
        storage.write_bytes(folder.path(name), b"")
    folder.remove_leftovers("shards", {"shards/output": {}})
    assert [uri.removeprefix(f"{folder.uri}/") for uri in find_files(folder.uri)] == ["shards/output", "stray"]


def test_the_commit_of_an_image_is_read_from_its_file(tmp_path, monkeypatch):
    module = tmp_path / "platform/distilray/runtime/run_folder.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(run_folder, "__file__", str(module))
    assert run_folder.git_commit.__wrapped__() is None
    (tmp_path / "COMMIT").write_text("c0ffee\n")
    assert run_folder.git_commit.__wrapped__() == "c0ffee"


def test_an_input_is_a_run_or_the_size_and_hash_of_its_files(tmp_path, dump):
    run = finished(tmp_path / "run", dump).uri
    assert describe_input(run) == {"content_hash": read_manifest(run)["content_hash"]}
    (tmp_path / "books").mkdir()
    for name, content in {"a": b"123", "b": b"4567", "empty": b""}.items():
        (tmp_path / "books" / name).write_bytes(content)
    sizes = {name: describe_input(str(tmp_path / name))["bytes"] for name in ("dump.xml", "books", "books/empty")}
    assert sizes == {"dump.xml": 12, "books": 7, "books/empty": 0}
