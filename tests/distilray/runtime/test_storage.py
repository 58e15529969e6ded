import os
import resource
from unittest.mock import Mock

import pytest

from distilray.errors import InputError
from distilray.runtime import storage

ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_a_file_is_written_with_its_folders_and_read_by_path_or_uri(tmp_path):
    storage.write_bytes(f"file://{tmp_path}/a/b/x", b"abc")
    uri = str(tmp_path / "a/b/x")
    assert storage.read_bytes(uri) == b"abc"
    assert storage.read_range(uri, 1, 9) == b"bc"
    assert storage.local_path(f"file://{tmp_path}/a/b/x") == tmp_path / "a/b/x"
    names = ["a/b/x", "a", "absent"]
    assert [storage.file_size(storage.join(str(tmp_path), name)) for name in names] == [3, 0, None]
    assert [storage.is_folder(storage.join(str(tmp_path), name)) for name in names] == [False, True, False]


@pytest.mark.parametrize("name", ["x", "cut.xml.bz2"])
def test_a_file_is_hashed_and_read_as_stored_also_if_its_name_is_that_of_a_compressed_file(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"abc")
    assert storage.sha256(str(file)) == storage.fingerprint(str(file)) == ABC_SHA256
    assert storage.read_bytes(str(file)) == b"abc"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://host/x", "scheme 'http' is not one of file, s3, gs, gcs"),
        ("S3X://x", "scheme 's3x' is not one of"),
        ("file:/data/x", "write a URI with ://"),
        ("s3:bucket/x", "write a URI with ://"),
        ("file://host/x", "file://host/x: "),
        ("s3://bucket/x?region=eu-west-1", "must be a folder on this machine"),
    ],
)
def test_an_unusable_uri_is_refused(uri, message):
    with pytest.raises(InputError, match=message):
        storage.local_path(uri)


@pytest.mark.parametrize(("name", "path"), [("12:30", "12:30"), ("./~x", "~x"), ("~/x", "home/x")])
def test_a_colon_is_part_of_a_name_and_a_tilde_is_the_home(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.local_path(name) == tmp_path / path


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_files_are_listed_in_order_by_suffix_under_names_that_can_be_read(tmp_path, prefix):
    for name in ("b.arrow", "a b%20.arrow", "c.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d.arrow").mkdir()
    files = storage.list_files(f"{prefix}{tmp_path}", ".arrow")
    assert [storage.read_bytes(uri) for uri in files] == [b"a b%20.arrow", b"b.arrow"]
    assert len(storage.list_files(f"{prefix}{tmp_path}")) == 3
    assert storage.list_files(f"{prefix}{tmp_path}/absent") == []


def test_a_folder_is_removed_with_its_content_and_may_be_missing(tmp_path):
    storage.write_bytes(str(tmp_path / "run/a/x"), b"")
    for _ in range(2):
        storage.remove_folder(str(tmp_path / "run"))
    assert not storage.exists(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("a", "b", "c"), "a/b/c"),
        (("a/", "b"), "a/b"),
        (("/", "b"), "/b"),
        (("/",), "/"),
        (("s3://x/", "b"), "s3://x/b"),
    ],
)
def test_names_are_joined_with_one_slash(parts, joined):
    assert storage.join(*parts) == joined


def test_a_file_appears_when_it_is_completely_written(tmp_path):
    file = tmp_path / "folder/file"
    with storage.FileWriter(str(file)) as writer:
        writer.write(b"a")
        assert not file.exists()
        writer.write(b"bc")
    assert file.read_bytes() == b"abc"
    assert (writer.bytes, writer.sha256) == (3, ABC_SHA256)


def write_half(uri):
    with storage.FileWriter(uri) as writer:
        writer.write(b"half")
        raise RuntimeError


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch):
    target = str(tmp_path / "x")
    storage.write_bytes(target, b"old")
    with pytest.raises(RuntimeError):
        write_half(target)
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space"):
        storage.write_bytes(target, b"new")
    assert storage.read_bytes(target) == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.fixture
def full_disk():
    """Limit the files of this process to 4 kB, which raises the errors of a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_with_writer(uri, data):
    with storage.FileWriter(uri) as file:
        file.write(data)


@pytest.mark.parametrize("write", [storage.write_bytes, write_with_writer])
@pytest.mark.parametrize("size", [5000, 5_000_000])
def test_a_full_disk_is_bad_input_that_names_the_file_and_leaves_no_file(tmp_path, full_disk, write, size):
    with pytest.raises(InputError, match=r"/x: cannot be written \(.+\); free space"):
        write(str(tmp_path / "x"), b"0" * size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "use",
    [
        *(storage.read_bytes, storage.sha256, storage.fingerprint, storage.remove_file),
        *(storage.open_file, storage.open_stream, lambda uri: storage.read_range(uri, 0, 1)),
    ],
)
def test_a_missing_file_is_bad_input_that_names_it(tmp_path, use):
    with pytest.raises(InputError, match=f"{tmp_path}/gone: "):
        use(str(tmp_path / "gone"))


def test_a_folder_in_the_way_of_a_file_or_a_file_in_the_way_of_a_folder_is_bad_input(tmp_path):
    (tmp_path / "x/y").mkdir(parents=True)
    with pytest.raises(InputError, match="/x: cannot be written"):
        storage.write_bytes(str(tmp_path / "x"), b"")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="/file/run: cannot be created"):
        storage.make_folder(str(tmp_path / "file/run"))
