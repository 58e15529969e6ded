import os
import subprocess
import sys

import pytest

from distilray.errors import InputError
from distilray.runtime.cache import LocalCache


@pytest.fixture
def cache(tmp_path):
    return LocalCache(str(tmp_path / "cache"), noun="a file")


def write(data):
    return lambda file: file.write_bytes(data)


def refuse(file):
    raise AssertionError("fetched again")


def write_folder(folder):
    folder.mkdir()
    (folder / "complete").write_bytes(b"x")


def test_an_entry_is_fetched_once(cache):
    assert cache.get("a", write(b"a")).read_bytes() == b"a"
    assert cache.get("a", refuse).read_bytes() == b"a"


def test_a_fetch_that_fails_leaves_no_entry(cache, tmp_path):
    def fail(folder):
        write_folder(folder)
        raise InputError("second: cannot be read")

    with pytest.raises(InputError, match="second"):
        cache.get("a", fail)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]
    assert cache.get("a", write(b"again")).read_bytes() == b"again"


def test_the_files_of_a_killed_process_are_not_in_the_entry(cache, tmp_path):
    (tmp_path / "cache/a.part").mkdir(parents=True)
    (tmp_path / "cache/a.part/torn").write_bytes(b"torn")
    assert [file.name for file in cache.get("a", write_folder).iterdir()] == ["complete"]


FETCH = """
import sys
from distilray.runtime.cache import LocalCache

def fetch(file):
    print("fetching", flush=True)
    sys.stdin.readline()
    file.write_bytes(b"complete")

LocalCache(sys.argv[1], noun="a file").get("a", fetch)
"""


def test_a_process_waits_for_the_one_that_fetches_an_entry(cache, tmp_path, root):
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache")]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "fetching\n"
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=1)  # too short a time can hide a bug but not report a false one
            first.stdin.write("\n")
            first.stdin.close()
            assert second.communicate(timeout=60)[0] == b""
    assert cache.get("a", refuse).read_bytes() == b"complete"


@pytest.mark.parametrize(
    ("max_bytes", "used_again", "left"),
    [(20, [], "bc"), (20, ["a"], "ac"), (30, [], "abc"), (5, [], "c")],
    ids=["oldest", "least recently used", "exact limit", "larger than the limit"],
)
def test_the_least_recently_used_entries_are_removed_above_the_limit(tmp_path, max_bytes, used_again, left):
    cache = LocalCache(str(tmp_path), noun="a file", max_bytes=max_bytes)
    for number, name in enumerate("ab"):
        (tmp_path / name).write_bytes(10 * b"x")
        os.utime(tmp_path / name, (number, number))
    for name in used_again:
        cache.get(name, refuse)
    cache.get("c", write(10 * b"x"))
    assert {file.name for file in tmp_path.iterdir() if not file.suffix} == set(left)


def test_an_entry_that_cannot_be_stored_is_bad_input_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    cache = LocalCache(str(tmp_path / "file"), noun="a shard", remedy="set cache.folder")
    with pytest.raises(InputError, match=rf"{tmp_path}/file: cannot store a shard there \(.+\); set cache\.folder"):
        cache.get("a", refuse)
