import os
from pathlib import Path

import pytest

from distilray.errors import InputError
from distilray.runtime.file_search import find_files


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("{}", ["a.txt", "b/c.txt", "b/d.md"]),
        ("{}/a.txt", ["a.txt"]),
        ("{}/*.txt", ["a.txt"]),
        ("{}/*/*.txt", ["b/c.txt"]),
        ("{}/b*/*", ["b/c.txt", "b/d.md"]),
        ("file://{}/*.txt", ["a.txt"]),
    ],
)
def test_a_path_means_its_files(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("a.txt", "b/c.txt", "b/d.md", ".hidden", "_done"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = find_files(pattern.format(tmp_path))
    assert [file.removeprefix("file://").removeprefix(f"{tmp_path}/") for file in files] == found


def test_a_pattern_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert find_files("*.txt") == ["./a.txt"]


@pytest.mark.parametrize("pattern", ["{}/missing", "{}/*.txt", "{}"])
def test_a_path_without_files_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"no such file|no files found"):
        find_files(pattern.format(tmp_path))


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names_in(folder: Path, pattern: str = "") -> list[str]:
    return [os.path.relpath(file, folder) for file in find_files(f"{folder}{pattern}")]


@pytest.mark.parametrize(
    ("link", "target"),
    [("self", "."), ("b/up", ".."), ("b/sibling", "../c"), ("b/again.txt", "../a.txt"), ("0.txt", "a.txt")],
)
def test_a_file_with_several_names_is_listed_once_under_its_own(tmp_path: Path, link: str, target: str) -> None:
    write(tmp_path, "a.txt", "b/b.txt", "c/c.txt")
    (tmp_path / link).symlink_to(target)
    assert names_in(tmp_path) == ["a.txt", "b/b.txt", "c/c.txt"]


def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path) -> None:
    folders = [f"{number:02d}" for number in range(12)]
    write(tmp_path, *[f"{folder}/x.txt" for folder in folders])
    for folder in folders:
        for other in folders:
            (tmp_path / folder / f"to-{other}").symlink_to(tmp_path / other)
    assert names_in(tmp_path) == [f"{folder}/x.txt" for folder in folders]


def test_a_link_to_a_folder_above_the_path_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside.txt", "top/a.txt")
    (tmp_path / "top/up").symlink_to(tmp_path)
    assert names_in(tmp_path / "top") == ["a.txt"]


def test_a_file_outside_is_read_through_its_link(tmp_path: Path) -> None:
    write(tmp_path, "blobs/1", "blobs/more/2.txt")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/a.txt").symlink_to("../blobs/1")
    (tmp_path / "top/more").symlink_to("../blobs/more")
    (tmp_path / "top-link").symlink_to("top")
    assert names_in(tmp_path / "top") == ["a.txt", "more/2.txt"]
    assert names_in(tmp_path / "top-link") == ["a.txt", "more/2.txt"]


def test_a_pattern_follows_the_links_that_it_names(tmp_path: Path) -> None:
    write(tmp_path, "v1/a.txt", "v2/a.txt")
    (tmp_path / "current").symlink_to("v2")
    assert names_in(tmp_path, "/cur*/*.txt") == ["current/a.txt"]
    assert names_in(tmp_path, "/*/*.txt") == ["v1/a.txt", "v2/a.txt"]


@pytest.mark.parametrize("target", ["gone.txt", "b.txt"])
def test_a_link_without_a_target_is_named(tmp_path: Path, target: str) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to(target)  # to itself: a cycle
    with pytest.raises(InputError, match=rf"b\.txt: broken link to {target} .*; remove the link"):
        find_files(str(tmp_path))


def test_a_link_without_a_target_is_not_an_error_where_it_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / ".#a.txt").symlink_to("lock of an editor")
    (tmp_path / "b.md").symlink_to("gone")
    assert names_in(tmp_path, "/*.txt") == ["a.txt"]


def test_a_name_with_spaces_is_matched_in_a_uri(tmp_path: Path) -> None:
    write(tmp_path, "a b/c d.txt")
    assert find_files(f"file://{tmp_path}/a%20b/*.txt") == [f"file://{tmp_path}/a%20b/c%20d.txt"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\); give user"):
        find_files(str(tmp_path))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        find_files(f"{tmp_path}/pipe")
    with pytest.raises(InputError, match="no files found"):
        find_files(str(tmp_path))
