"""Identities of runs, inputs and recipes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distilray.config.base import JobConfig, SeededConfig
from distilray.runtime.run_folder import RunFolder, describe_input

GIB = 1 << 30
CHANGES: dict[str, dict[str, Any]] = {
    "the job": {"job": "encode_corpus"},
    "the config": {"seed": 57},
    "the content of an input": {"text": "other"},
    "the name of an input": {"input_name": "index"},
    "a count": {"counts": {"rows": 4}},
    "the content of an output": {"outputs": {"a.arrow": {"rows": 3, "sha256": "1" * 64}}},
    "the rows of an output": {"outputs": {"a.arrow": {"rows": 4, "sha256": "0" * 64}}},
    "the name of an output": {"outputs": {"b.arrow": {"rows": 3, "sha256": "0" * 64}}},
}


def content_hash(
    folder: Path,
    *,
    job: str = "build_corpus",
    seed: int = 56,
    text: str = "dump",
    input_name: str = "dump",
    counts: Any = None,
    outputs: Any = None,
) -> str:
    (folder / "dump.xml").write_text(text)
    config: JobConfig = SeededConfig(run_dir=str(folder / "run"), seed=seed)
    run = RunFolder(job, config, {input_name: str(folder / "dump.xml")})
    run.begin()
    found = run.finish(counts or {"rows": 3}, outputs or {"a.arrow": {"rows": 3, "sha256": "0" * 64}}, "a run")
    return str(found["content_hash"])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_content_hash_of_a_run_depends_on(tmp_path: Path, change: dict[str, Any]) -> None:
    assert content_hash(tmp_path, **change) != content_hash(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"input/a.txt": "one", "input/b.txt": "two", "input/below/c.txt": "three"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "input"


def swap(folder: Path) -> None:
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
    ids=["a name", "a folder", "a content", "a new empty file", "a file less", "the names of two contents"],
)
def test_a_folder_is_another_input_after_a_change_of(folder: Path, change: Callable[[Path], object]) -> None:
    before = describe_input(str(folder))
    change(folder)
    assert describe_input(str(folder)) != before


def test_a_folder_is_the_same_input_in_another_place_and_at_another_time(folder: Path) -> None:
    before = describe_input(str(folder))
    moved = folder.rename(folder.with_name("moved"))
    os.utime(moved / "a.txt", (1, 1))
    assert describe_input(str(moved)) == before


def test_a_file_is_the_same_input_under_another_name(folder: Path) -> None:
    before = describe_input(str(folder / "a.txt"))
    assert describe_input(str((folder / "a.txt").rename(folder / "z.txt"))) == before


@pytest.mark.parametrize("place", [0, 8 << 20, GIB + 5], ids=["first byte", "first half of the middle", "last byte"])
def test_a_file_of_a_gibibyte_is_known_by_its_ends(tmp_path: Path, place: int) -> None:
    file = tmp_path / "dump.bz2"
    with file.open("wb") as stream:
        stream.truncate(GIB + 6)  # a sparse file: no byte of it is written
    before = describe_input(str(file))["fingerprint"]
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"x")
    is_read = place in (0, GIB + 5)
    assert (describe_input(str(file))["fingerprint"] != before) is is_read


def test_a_file_of_a_gibibyte_is_known_by_its_size(tmp_path: Path) -> None:
    prints = []
    for size in (GIB + 6, GIB + 7):
        with (tmp_path / "dump.bz2").open("wb") as stream:
            stream.truncate(size)
        prints.append(describe_input(str(tmp_path / "dump.bz2"))["fingerprint"])
    assert prints[0] != prints[1]
