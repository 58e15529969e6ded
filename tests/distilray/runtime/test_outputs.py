import json
import os
from pathlib import Path

import pytest

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.outputs import RunOutputs, read_verified, verify_file
from distilray.runtime.run_folder import RunFolder, read_manifest
from tests.tiny.object_store import local_object_store

NAME = "data/part%201.bin"


def write_run(folder, name=NAME):
    run = RunFolder("build_corpus", JobConfig(run_dir=str(folder)), {})
    run.begin()
    storage.write_bytes(run.path(name), b"0123456789")
    run.finish({}, run.describe_outputs([name]), "a run")
    return RunOutputs.from_manifest(str(folder), read_manifest(str(folder))["content"])


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def file(run):
    return Path(run.folder, NAME)


def change_manifest(run, change):
    file = Path(run.folder, "manifest.json")
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def flip(file):
    file.write_bytes(b"x" + file.read_bytes()[1:])


def test_unchanged_files_pass_every_check(run, file):
    run.check_sizes([NAME])
    run.check_contents([NAME])
    verify_file(str(file))
    assert run.read(NAME) == read_verified(str(file)) == b"0123456789"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "9 bytes, but the manifest records 10"),
        (flip, r"its content differs from the manifest \(sha256\)"),
    ],
    ids=["missing", "cut", "flipped"],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_fix(run, file, damage, reason):
    damage(file)
    with pytest.raises(InputError, match=rf"{file}: {reason}; restore it, or run jobs.build_corpus again"):
        run.check_contents([NAME])
    for check in (lambda: run.read(NAME), lambda: verify_file(str(file)), lambda: read_verified(str(file))):
        with pytest.raises(InputError):
            check()


def test_a_file_that_is_not_an_output_is_refused(run):
    Path(run.folder, "data/notes.txt").write_text("mine")
    verify_file(storage.join(run.folder, "data/notes.txt"))  # added by the user
    with pytest.raises(InputError, match="not in the manifest"):
        run.check_sizes(["data/notes.txt"])


def test_a_file_that_changes_after_a_check_is_refused_at_the_next(run, file):
    os.utime(file, ns=(0, 10**18))
    run.check_contents([NAME])
    flip(file)
    with pytest.raises(InputError, match="content"):
        run.check_contents([NAME])


@pytest.mark.parametrize("entry", [{}, {"bytes": 10}, {"sha256": "unknown"}, 3])
def test_a_manifest_without_a_sha256_is_refused(run, file, entry):
    change_manifest(run, lambda manifest: manifest["content"]["outputs"].update({NAME: entry}))
    with pytest.raises(InputError, match="its manifest has no sha256 for it"):
        verify_file(str(file))


@pytest.mark.parametrize("manifest", ["", "no JSON", "[]", '{"schema": 1}', '{"name": "a web page"}'])
def test_a_file_next_to_a_manifest_of_another_program_passes(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "file").write_text("text")
    verify_file(str(tmp_path / "file"))


def test_a_file_of_a_run_of_an_earlier_version_is_still_verified(run, file):
    change_manifest(run, lambda manifest: manifest.update(schema=1))
    verify_file(str(file))
    flip(file)
    with pytest.raises(InputError, match="its content differs from the manifest"):
        verify_file(str(file))


def test_a_run_in_an_object_store_is_verified(tmp_path, monkeypatch):
    write_run(tmp_path / "run", "data/part.bin")
    uri = local_object_store(monkeypatch, tmp_path / "run")
    verify_file(f"{uri}/data/part.bin")
    verify_file(f"{uri}-other/file")
    flip(tmp_path / "run/data/part.bin")
    with pytest.raises(InputError, match="content"):
        verify_file(f"{uri}/data/part.bin")
