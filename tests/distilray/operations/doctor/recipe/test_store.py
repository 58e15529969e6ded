import errno
import os
import urllib.request

import pytest

from distilray.errors import InputError
from distilray.operations.doctor.recipe import store
from distilray.operations.doctor.recipe.store import check_store
from distilray.runtime import storage
from distilray.runtime.file_search import find_files


def keys(bucket: str) -> str:
    """All that the S3 server of the test holds, folders included."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}?list-type=2"
    return urllib.request.urlopen(url).read().decode().partition("<Contents>")[2]


@pytest.mark.parametrize("place", ["", "/run", "/a/b/run"])
def test_a_folder_that_can_be_written_is_as_it_was_before(tmp_path, place):
    (tmp_path / "kept").write_text("x")
    found = check_store(f"{tmp_path}{place}")
    assert (found.status, str(tmp_path) in found.found) == ("ok", True)
    assert [file.name for file in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("place", ["", "/run", "/a/b/run"])
def test_a_bucket_is_as_it_was_before(bucket, place):
    assert check_store(f"{bucket}{place}").status == "ok"
    assert keys(bucket) == ""


def test_a_run_that_is_there_stays(bucket):
    storage.write_bytes(f"{bucket}/runs/one/file", b"x")
    assert check_store(f"{bucket}/runs/two").status == "ok"
    assert check_store(f"{bucket}/runs/one").status == "ok"
    assert find_files(f"{bucket}/runs") == [f"{bucket}/runs/one/file"]


def test_what_somebody_writes_meanwhile_is_not_removed(bucket, tmp_path, monkeypatch):
    for uri in (f"{bucket}/run", f"{tmp_path}/run"):

        def meanwhile(probe: str, uri: str, name: str) -> str:
            storage.write_bytes(f"{uri}/of-another", b"x")
            return ""

        with monkeypatch.context() as patch:
            patch.setattr(store, "_try_out", meanwhile)
            assert check_store(uri).status == "ok"
        assert storage.read_bytes(f"{uri}/of-another") == b"x"


def test_a_bucket_that_is_not_there_fails_in_one_line(bucket):
    found = check_store("s3://no-such-bucket/run")
    assert (found.status, "no-such-bucket" in found.found) == ("fail", True)
    assert found.fix


def test_a_place_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    found = check_store(f"{tmp_path}/file/run")
    assert (found.status, "Not a directory" in found.found) == ("fail", True)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("function", "value", "told"),
    [
        ("read_bytes", lambda uri: b"other", "something else"),
        ("list_files", lambda uri: [], "not listed"),
        ("remove_file", lambda uri: None, "still there"),
    ],
)
def test_a_store_that_does_not_show_what_was_done_fails(tmp_path, monkeypatch, function, value, told):
    monkeypatch.setattr(storage, function, value)
    found = check_store(str(tmp_path / "run"))
    assert (found.status, told in found.found) == ("fail", True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "no permission for user"),
        (errno.EPERM, "no permission for user"),
        (errno.ENOSPC, "no space"),
        (errno.EDQUOT, "no space"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_permissions_and_space_are_told_apart(tmp_path, monkeypatch, code, words):
    def refuse(uri: str, data: bytes) -> None:
        try:
            raise OSError(code, os.strerror(code))
        except OSError:
            raise InputError(f"{uri}: cannot be written") from None

    monkeypatch.setattr(storage, "write_bytes", refuse)
    found = check_store(str(tmp_path / "run"))
    assert (found.status, words in found.found) == ("fail", True)
    assert ("space" in found.fix) == (words == "no space")


def test_the_folder_that_refuses_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir(mode=0o700)

    def refuse(uri: str) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    def access(path: object, mode: int) -> bool:  # as for a user who may not enter the folder
        return "closed/" not in str(path) and not (mode == os.X_OK and str(path).endswith("closed"))

    monkeypatch.setattr(storage, "exists", refuse)
    monkeypatch.setattr(store.os, "access", access)
    found = check_store(f"{tmp_path}/closed/a/run")
    assert f"{tmp_path}/closed is drwx------ of user {os.getuid()}" in found.found
