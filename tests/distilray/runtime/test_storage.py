import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distilray.errors import InputError
from distilray.runtime import storage


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a/b/x"), b"new")
    assert storage.read_bytes(str(tmp_path / "a/b/x")) == b"new"


def test_a_path_and_its_uri_are_the_same_file(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/x", b"12")
    assert storage.file_size(str(tmp_path / "x")) == 2
    assert storage.local_path(f"file://{tmp_path}/x") == tmp_path / "x"


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(tmp_path / "x")
    storage.write_bytes(target, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space"):
        storage.write_bytes(target, b"new")
    assert storage.read_bytes(target) == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("uri", ["http://host/x", "hdfs://host/x", "S3X://x"])
def test_another_scheme_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="is not one of file, s3, gs, gcs"):
        storage.filesystem(uri)


@pytest.mark.parametrize("uri", ["file:/data/x", "s3:bucket/x"])
def test_a_uri_without_its_slashes_is_not_taken_for_a_folder_of_that_name(uri: str) -> None:
    with pytest.raises(InputError, match="write a URI with ://"):
        storage.filesystem(uri)


def test_a_malformed_uri_is_refused() -> None:
    with pytest.raises(InputError, match="file://host/x"):
        storage.filesystem("file://host/x")


def test_a_colon_or_a_tilde_in_a_name_is_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.local_path("12:30") == tmp_path / "12:30"
    assert storage.local_path("./~x") == tmp_path / "~x"


def test_a_tilde_alone_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.local_path("~/x") == tmp_path / "x"


def test_size_tells_a_file_a_folder_and_nothing_apart(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    names = ["x", "", "absent"]
    assert [storage.file_size(storage.join(str(tmp_path), name)) for name in names] == [3, 0, None]


def test_listed_files_are_sorted_and_chosen_by_suffix(tmp_path: Path) -> None:
    for name in ("b.arrow", "a.arrow", "c.json"):
        (tmp_path / name).touch()
    (tmp_path / "d.arrow").mkdir()
    listed = storage.list_files(str(tmp_path), ".arrow")
    assert listed == [f"{tmp_path}/a.arrow", f"{tmp_path}/b.arrow"]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_listed_names_with_spaces_and_per_cent_signs_can_be_read(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "a b%20.txt").write_bytes(b"content")
    assert [storage.read_bytes(uri) for uri in storage.list_files(prefix + str(tmp_path))] == [b"content"]


def test_a_missing_folder_has_no_files(tmp_path: Path) -> None:
    assert storage.list_files(str(tmp_path / "absent")) == []


def test_a_folder_is_removed_with_all_it_holds_and_a_missing_one_is_not_an_error(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "run/a/x"), b"")
    for _ in range(2):
        storage.remove_folder(str(tmp_path / "run"))
    assert not storage.exists(str(tmp_path / "run"))


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be created"):
        storage.make_folder(str(tmp_path / "file" / "run"))


def test_a_folder_of_an_object_store_is_not_a_local_path() -> None:
    with pytest.raises(InputError, match="must be a folder on this machine"):
        storage.local_path("s3://bucket/x?region=eu-west-1")


def test_a_digest_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert storage.sha256(str(tmp_path / "x")).startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.parametrize(
    ("parts", "joined"),
    [(("a", "b", "c"), "a/b/c"), (("a/", "b"), "a/b"), (("/", "b"), "/b"), (("s3://x/", "b"), "s3://x/b")],
)
def test_names_are_joined_with_one_slash(parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(*parts) == joined


def test_a_compressed_file_is_read_and_hashed_as_it_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "cut.xml.bz2"
    file.write_bytes(b"BZh9 and no more")
    assert storage.read_bytes(str(file)) == b"BZh9 and no more"
    assert storage.sha256(str(file)) == hashlib.sha256(b"BZh9 and no more").hexdigest()


def test_a_file_that_is_written_piece_by_piece_appears_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "folder/file"
    with storage.FileWriter(str(file)) as writer:
        writer.write(b"first ")
        assert not file.exists()
        writer.write(b"second")
    assert file.read_bytes() == b"first second"
    assert (writer.bytes, writer.sha256) == (12, storage.sha256(str(file)))


def test_a_file_whose_writing_fails_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with storage.FileWriter(str(tmp_path / "file")) as writer:
            writer.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file of this process may grow beyond 4 kB, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("size", [5000, 5_000_000])
def test_a_full_disk_is_bad_input_that_names_the_file_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    with pytest.raises(InputError, match=r"/x: cannot be written \(.+\); free space"):
        storage.write_bytes(str(tmp_path / "x"), b"0" * size)
    with (
        pytest.raises(InputError, match=r"/y: cannot be written \(.+\); free space"),
        storage.FileWriter(str(tmp_path / "y")) as file,
    ):
        file.write(b"0" * size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "use",
    [
        storage.read_bytes,
        storage.sha256,
        storage.fingerprint,
        storage.remove_file,
        lambda uri: storage.read_range(uri, 0, 1),
    ],
)
def test_a_file_that_has_vanished_is_bad_input_that_names_it(tmp_path: Path, use: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/gone: "):
        use(str(tmp_path / "gone"))


def test_a_folder_instead_of_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(InputError, match="/x: cannot be written"):
        storage.write_bytes(str(tmp_path / "x"), b"")
