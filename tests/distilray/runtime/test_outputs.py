import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.outputs import RunOutputs, verify_file
from distilray.runtime.run_folder import RunFolder, read_manifest

NAME = "data/part.bin"


class Config(JobConfig):
    pass


def write_run(folder: Path, content: bytes = b"0123456789") -> RunOutputs:
    run = RunFolder("build_corpus", Config(run_dir=str(folder)), {})
    run.begin()
    storage.write_bytes(run.path(NAME), content)
    run.finish({}, run.describe_outputs([NAME]), "a run")
    return RunOutputs.from_manifest(str(folder), read_manifest(str(folder))["content"])


@pytest.fixture
def run(tmp_path: Path) -> RunOutputs:
    return write_run(tmp_path / "run")


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    file.write_bytes(b"x" + file.read_bytes()[1:])


def of_another_run(file: Path) -> None:
    write_run(file.parents[2] / "other", b"9876543210")
    shutil.copy(file.parents[2] / "other" / NAME, file)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (remove, "missing"),
    (cut, "9 bytes, but the manifest records 10"),
    (flip, "its content differs from the manifest"),
    (of_another_run, "its content differs from the manifest"),
]


def test_unchanged_files_pass_every_check(run: RunOutputs) -> None:
    run.check_sizes([NAME])
    run.check_contents([NAME])
    verify_file(storage.join(run.folder, NAME))
    assert run.read(NAME) == b"0123456789"


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_file_is_refused_with_its_name_and_the_fix(
    run: RunOutputs, damage: Callable[[Path], None], reason: str
) -> None:
    damage(Path(run.folder, NAME))
    with pytest.raises(
        InputError, match=rf"{run.folder}/{NAME}: {reason}.*; restore it, or run jobs.build_corpus again"
    ):
        run.check_contents([NAME])
    with pytest.raises(InputError):
        run.read(NAME)
    with pytest.raises(InputError):
        verify_file(storage.join(run.folder, NAME))


def test_a_file_that_changes_after_a_check_is_refused_at_the_next(run: RunOutputs) -> None:
    file = Path(run.folder, NAME)
    os.utime(file, ns=(0, 10**18))
    run.check_contents([NAME])
    flip(file)
    with pytest.raises(InputError, match="content"):
        run.check_contents([NAME])


@pytest.mark.parametrize("entry", [{}, {"bytes": 10}, {"sha256": "unknown"}, 3])
def test_a_manifest_without_a_sha256_is_refused(run: RunOutputs, entry: object) -> None:
    file = Path(run.folder, "manifest.json")
    manifest = json.loads(file.read_text())
    manifest["content"]["outputs"][NAME] = entry
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="its manifest has no sha256 for it"):
        verify_file(storage.join(run.folder, NAME))


@pytest.mark.parametrize("manifest", ["no JSON", "[]", '{"schema": 1}', '{"name": "a web page"}'])
def test_a_file_beside_a_manifest_of_another_program_passes(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "file").write_text("text")
    verify_file(str(tmp_path / "file"))


def test_a_file_of_a_run_of_an_earlier_version_is_still_verified(run: RunOutputs) -> None:
    file = Path(run.folder, "manifest.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 1}))
    verify_file(storage.join(run.folder, NAME))
    flip(Path(run.folder, NAME))
    with pytest.raises(InputError, match="its content differs from the manifest"):
        verify_file(storage.join(run.folder, NAME))


def test_a_file_that_a_user_adds_to_a_run_passes(run: RunOutputs) -> None:
    Path(run.folder, "data/notes.txt").write_text("mine")
    verify_file(storage.join(run.folder, "data/notes.txt"))


def test_a_run_in_an_object_store_is_checked_too(tmp_path: Path, bucket: str) -> None:
    run = write_run(tmp_path / "run")
    for name in (NAME, "manifest.json"):
        storage.write_bytes(f"{bucket}/run/{name}", Path(run.folder, name).read_bytes())
    verify_file(f"{bucket}/run/{NAME}")
    verify_file(f"{bucket}/of-no-run")
    storage.write_bytes(f"{bucket}/run/{NAME}", b"0123456780")
    with pytest.raises(InputError, match="content"):
        verify_file(f"{bucket}/run/{NAME}")
