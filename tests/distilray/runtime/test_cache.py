import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distilray.errors import InputError
from distilray.runtime.cache import LocalCache


@pytest.fixture
def cache(tmp_path: Path) -> LocalCache:
    return LocalCache(str(tmp_path / "cache"), noun="a file")


def write(data: bytes) -> Callable[[Path], None]:
    def fetch(file: Path) -> None:
        file.write_bytes(data)

    return fetch


def refuse(file: Path) -> None:
    raise AssertionError("fetched again")


def test_an_entry_is_fetched_once(cache: LocalCache) -> None:
    assert cache.get("a", write(b"a")).read_bytes() == b"a"
    assert cache.get("a", refuse).read_bytes() == b"a"


def test_a_fetch_that_fails_leaves_no_entry(cache: LocalCache) -> None:
    def broken(folder: Path) -> None:
        folder.mkdir()
        (folder / "first").write_bytes(b"whole")
        raise InputError("second: cannot be read")

    with pytest.raises(InputError, match="second"):
        cache.get("a", broken)
    assert cache.get("a", write(b"again")).read_bytes() == b"again"


def test_what_a_killed_process_has_left_is_not_in_the_entry(cache: LocalCache, tmp_path: Path) -> None:
    (tmp_path / "cache/a.part").mkdir(parents=True)
    (tmp_path / "cache/a.part/torn").write_bytes(b"torn")

    def fetch(folder: Path) -> None:
        folder.mkdir()
        (folder / "whole").write_bytes(b"whole")

    assert [file.name for file in cache.get("a", fetch).iterdir()] == ["whole"]


WAIT = """
import sys
from distilray.runtime.cache import LocalCache

def fetch(file):
    print("fetching", flush=True)
    sys.stdin.readline()
    file.write_bytes(b"whole")

LocalCache(sys.argv[1], noun="a file").get("a", fetch)
"""


def test_a_process_waits_for_the_one_that_fetches_an_entry(cache: LocalCache, tmp_path: Path, root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-c", WAIT, str(tmp_path / "cache")]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "fetching\n"
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=2)  # too short a time would hide a fault, never invent one
            first.stdin.write("\n")
            first.stdin.close()
            assert second.communicate(timeout=60)[0] == b""
    assert cache.get("a", refuse).read_bytes() == b"whole"


@pytest.mark.parametrize(("used_again", "removed"), [(None, "a"), ("a", "b")])
def test_the_least_recently_used_entry_goes_first(tmp_path: Path, used_again: str | None, removed: str) -> None:
    cache = LocalCache(str(tmp_path), noun="a file", max_bytes=25)
    for number, name in enumerate("ab"):
        os.utime(cache.get(name, write(10 * b"x")), (number, number))
    if used_again:
        cache.get(used_again, refuse)
    cache.get("c", write(10 * b"x"))
    assert {file.name for file in tmp_path.iterdir() if not file.suffix} == {*"abc"} - {removed}


def test_an_entry_larger_than_the_limit_is_there_when_it_is_returned(tmp_path: Path) -> None:
    assert LocalCache(str(tmp_path), noun="a file", max_bytes=5).get("a", write(10 * b"x")).exists()
