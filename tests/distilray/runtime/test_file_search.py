import os
from unittest.mock import Mock

import pytest

from distilray.errors import InputError
from distilray.runtime.file_search import check_exists, find_files
from tests.tiny.object_store import local_object_store


@pytest.fixture
def write(tmp_path):
    """Return a function that writes files, and links as `name -> target`, and returns their folder."""

    def write(*names):
        for name, arrow, target in (name.partition(" -> ") for name in names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if arrow:
                (tmp_path / name).symlink_to(target)
            else:
                (tmp_path / name).write_text(name)
        return tmp_path

    return write


def names_in(folder, pattern=""):
    return [os.path.relpath(file, folder) for file in find_files(f"{folder}{pattern}")]


@pytest.mark.parametrize("scheme", ["", "file", "s3"])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.txt", "b/c d.txt", "b/d.md"]),
        ("/a.txt", ["a.txt"]),
        ("/*.txt", ["a.txt"]),
        ("/*/*.txt", ["b/c d.txt"]),
        ("/b*/*", ["b/c d.txt", "b/d.md"]),
    ],
)
def test_a_path_or_pattern_denotes_its_files(write, monkeypatch, scheme, pattern, names):
    folder = write("b/d.md", "b/c d.txt", "a.txt", ".hidden", "_done", "b/_e/f.txt")
    top = {"": str(folder), "file": f"file://{folder}", "s3": local_object_store(monkeypatch, folder)}[scheme]
    quoted = [name.replace(" ", "%20") if scheme else name for name in names]
    assert find_files(f"{top}{pattern}") == [f"{top}/{name}" for name in quoted]


def test_a_pattern_may_be_relative_and_quoted(write, monkeypatch):
    folder = write("a b/c.txt", "d.txt")
    monkeypatch.chdir(folder)
    assert find_files("*.txt") == ["./d.txt"]
    assert find_files(f"file://{folder}/a%20b/*.txt") == [f"file://{folder}/a%20b/c.txt"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("/missing", "missing: no such file or folder; correct the path"),
        ("/*.txt", r"\*.txt: no files found; correct the path"),
        ("", "no files found; correct the path"),
        ("/pipe", "pipe: not a regular file"),
    ],
)
def test_a_path_without_regular_files_is_refused(tmp_path, pattern, message):
    os.mkfifo(tmp_path / "pipe")  # reading it would block
    with pytest.raises(InputError, match=message):
        find_files(f"{tmp_path}{pattern}")


def test_a_path_is_checked_but_not_a_pattern(tmp_path):
    for path in (str(tmp_path), f"{tmp_path}/*.txt"):
        assert check_exists(path) == path
    with pytest.raises(InputError, match="missing: no such file or folder"):
        check_exists(f"{tmp_path}/missing")


FILES = ["a.txt", "b/b.txt", "c/c.txt"]


@pytest.mark.parametrize(
    ("files", "links", "pattern", "names"),
    [
        (FILES, ["self -> ."], "", FILES),
        (FILES, ["b/up -> .."], "", FILES),
        (FILES, ["b/sibling -> ../c"], "", FILES),
        (FILES, ["b/again.txt -> ../a.txt"], "", FILES),
        (FILES, ["0.txt -> a.txt"], "", FILES),
        (["top/a.txt", "x.txt"], ["top/up -> .."], "/top", ["top/a.txt"]),
        (["blobs/1", "top/b"], ["top/a.txt -> ../blobs/1"], "/top", ["top/a.txt", "top/b"]),
        (["blobs/more/2"], ["top/more -> ../blobs/more"], "/top", ["top/more/2"]),
        (["top/a.txt"], ["link -> top"], "/link", ["link/a.txt"]),
        (["v1/a.txt", "v2/a.txt"], ["current -> v2"], "/cur*/*.txt", ["current/a.txt"]),
        (["v1/a.txt", "v2/a.txt"], ["current -> v2"], "/*/*.txt", ["v1/a.txt", "v2/a.txt"]),
        (["a.txt"], [".#a.txt -> lock of an editor", "b.md -> gone"], "/*.txt", ["a.txt"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value or "all",
)
def test_links_are_followed_and_each_file_is_listed_once_under_its_own_name(write, files, links, pattern, names):
    assert names_in(write(*files, *links), pattern) == names


def test_folders_that_link_to_each_other_are_listed_once(write):
    names = [f"{number:02d}" for number in range(12)]
    links = [f"{name}/to-{other} -> ../{other}" for name in names for other in names]
    assert names_in(write(*[f"{name}/x.txt" for name in names], *links)) == [f"{name}/x.txt" for name in names]


@pytest.mark.parametrize("target", ["gone.txt", "b.txt"])  # the second is a cycle
def test_a_broken_link_is_named(write, target):
    with pytest.raises(InputError, match=rf"b\.txt: broken link to {target} .*; remove the link"):
        find_files(str(write("a.txt", f"b.txt -> {target}")))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match=rf"{tmp_path}: cannot be listed \(Permission denied\); give user"):
        find_files(str(tmp_path))
