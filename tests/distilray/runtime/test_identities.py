"""Identities of runs and inputs."""

import os

import pytest

from distilray.config.base import RayConfig, RayJobConfig, SeededConfig
from distilray.runtime import run_folder
from distilray.runtime.run_folder import RunFolder, describe_input

GIB = 1 << 30
OUTPUTS = {"a.arrow": {"rows": 3, "sha256": "0" * 64}}


class Recipe(SeededConfig, RayJobConfig):
    pass


def manifest(folder, *, job="build_corpus", text="dump", file="dump.xml", name="dump", rows=3, outputs=None, **config):
    (folder / file).write_text(text)
    values = {"run_dir": str(folder / "run"), "seed": 56, **config}
    run = RunFolder(job, Recipe(**values), {name: str(folder / file)})
    run.begin()
    return run.finish({"rows": rows}, outputs or OUTPUTS, "a run")


@pytest.mark.parametrize(
    "change",
    [
        {"job": "encode_corpus"},
        {"seed": 57},
        {"text": "pmud"},
        {"name": "index"},
        {"rows": 4},
        {"outputs": {"a.arrow": {"rows": 3, "sha256": "1" * 64}}},
        {"outputs": {"a.arrow": {"rows": 4, "sha256": "0" * 64}}},
        {"outputs": {"b.arrow": {"rows": 3, "sha256": "0" * 64}}},
    ],
    ids=str,
)
def test_the_content_hash_of_a_run_depends_on(tmp_path, change):
    assert manifest(tmp_path, **change)["content_hash"] != manifest(tmp_path)["content_hash"]


def test_the_content_hash_of_a_run_does_not_depend_on_time_paths_workers_or_order(tmp_path, monkeypatch):
    first = manifest(tmp_path)
    monkeypatch.setattr(run_folder.time, "time", lambda: 4e9)
    outputs = {"a.arrow": dict(reversed(OUTPUTS["a.arrow"].items()))}
    moved = {"run_dir": str(tmp_path / "b"), "file": "moved.xml"}
    second = manifest(tmp_path, **moved, outputs=outputs, ray=RayConfig(num_cpus=1))
    assert first["content_hash"] == second["content_hash"]
    assert first["run"] != second["run"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "input"
    (folder / "below").mkdir(parents=True)
    for name, text in {"a.txt": "one", "b.txt": "two", "below/c.txt": "three"}.items():
        (folder / name).write_text(text)
    return folder


def swap(folder):
    (folder / "a.txt").write_text("two")
    (folder / "b.txt").write_text("one")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.txt").rename(folder / "z.txt"),
        lambda folder: (folder / "below/c.txt").rename(folder / "c.txt"),
        lambda folder: (folder / "a.txt").write_text("One"),
        lambda folder: (folder / "d.txt").write_text(""),
        lambda folder: (folder / "below/c.txt").unlink(),
        swap,
    ],
    ids=["a name", "a folder", "a content", "a new empty file", "a removed file", "the names of two contents"],
)
def test_a_folder_is_another_input_after_a_change_of(folder, change):
    before = describe_input(str(folder))
    change(folder)
    assert describe_input(str(folder)) != before


def test_an_input_does_not_depend_on_the_path_of_a_file_or_folder_or_on_its_time(folder):
    before = describe_input(str(folder)), describe_input(str(folder / "a.txt"))
    moved = folder.rename(folder.with_name("moved"))
    os.utime(moved / "a.txt", (1, 1))
    assert describe_input(str(moved)) == before[0]
    assert describe_input(str((moved / "a.txt").rename(moved / "z.txt"))) == before[1]


def test_a_file_above_a_gibibyte_is_identified_by_its_size_and_its_first_and_last_8_mib(tmp_path):
    file = tmp_path / "dump.bz2"

    def fingerprint(size=GIB + (16 << 20), position=None):
        with file.open("wb") as stream:  # a sparse file
            stream.truncate(size)
            stream.seek(position or 0)
            stream.write(b"\0" if position is None else b"x")
        return describe_input(str(file))["fingerprint"]

    size, mib = GIB + (16 << 20), 1 << 20
    read = [0, 8 * mib - 1, size - 8 * mib, size - 1]
    assert len({fingerprint(position=position) for position in [None, *read]} | {fingerprint(size + 1)}) == 6
    assert {fingerprint(position=position) for position in (8 * mib, size - 8 * mib - 1)} == {fingerprint()}
