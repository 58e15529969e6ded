"""Local paths and object-store URIs through `pyarrow.fs`, with writes that are whole or absent."""

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from pyarrow import fs

from distilray.config.paths import expand_home
from distilray.errors import InputError, reading, writing

SCHEMES = ("file", "s3", "gs", "gcs")
READ_THREADS = 16  # threads that ask an object store at once, since each answer takes long
_CHUNK = 8 << 20
_WHOLE_BYTES = 1 << 30

F = TypeVar("F", bound=Callable[..., Any])


def _reading(function: F) -> F:
    """Run a function of a URI inside `reading`."""

    @functools.wraps(function)
    def checked(uri: str, *args: Any, **kwargs: Any) -> Any:
        with reading(uri):
            return function(uri, *args, **kwargs)

    return cast("F", checked)


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path inside it.

    It is built where it is used: pyarrow loses the retry strategy of an S3 filesystem when it is pickled.

    Raises:
        InputError: a scheme other than `SCHEMES`, a password, or a URI that pyarrow cannot read.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if not scheme:
        if uri.partition(":")[0] in SCHEMES and ":" in uri:
            raise InputError(f"{uri}: write a URI with ://, as in file:///data or s3://bucket/data")
        return fs.LocalFileSystem(), os.path.abspath(expand_home(uri))
    if scheme not in SCHEMES:
        raise InputError(f"{uri}: scheme '{scheme}' is not one of {', '.join(SCHEMES)}, or a plain path")
    _check_no_password(uri)
    try:
        found, path = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"{uri}: {error}; correct the URI, or the access to it") from None
    return found, path


def _check_no_password(uri: str) -> None:
    """Refuses a URI with a password, which configs, manifests and reports of runs would show."""
    parts = urlsplit(uri)
    if parts.password is not None:
        shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise InputError(f"{shown}: a password in a URI; leave it out, and put credentials into the environment")


def join(uri: str, *names: str) -> str:
    """`uri` with names below it."""
    return "/".join([uri.rstrip("/"), *names]) or "/"


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine."""
    return isinstance(filesystem(uri)[0], fs.LocalFileSystem)


def local_path(uri: str) -> Path:
    """The path of a local URI.

    Raises:
        InputError: the URI is in an object store.
    """
    found, path = filesystem(uri)
    if not isinstance(found, fs.LocalFileSystem):
        raise InputError(f"{uri}: a folder of this machine is needed here; copy it to a local path first")
    return Path(path)


def exists(uri: str) -> bool:
    """Return whether there is a file or folder."""
    return file_size(uri) is not None


@_reading
def file_size(uri: str) -> int | None:
    """Bytes of a file, 0 for a folder, None when nothing is there."""
    found, path = filesystem(uri)
    info = found.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        return None
    return info.size or 0


@_reading
def file_stamp(uri: str) -> tuple[int, int]:
    """Bytes and time of the last change, in ns, of a file."""
    found, path = filesystem(uri)
    info = found.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


@_reading
def is_folder(uri: str) -> bool:
    """Whether a folder is there."""
    found, path = filesystem(uri)
    return bool(found.get_file_info(path).type == fs.FileType.Directory)


@_reading
def list_files(uri: str, suffix: str = "") -> list[str]:
    """URIs of the files directly inside a folder whose names end with `suffix`, sorted; empty without the folder."""
    found, path = filesystem(uri)
    quoted = "://" in uri  # a URI escapes a space or a per cent sign in a name, a path does not
    selector = fs.FileSelector(path, recursive=False, allow_not_found=True)
    names = [info.base_name for info in found.get_file_info(selector) if info.type == fs.FileType.File]
    return [join(uri, quote(name) if quoted else name) for name in sorted(names) if name.endswith(suffix)]


def make_folder(uri: str) -> None:
    """Creates a folder and what is missing above it."""
    found, path = filesystem(uri)
    try:
        found.create_dir(path, recursive=True)
    except OSError as error:
        raise InputError(f"{uri}: cannot be created ({error}); choose a folder that can be written") from None


def remove_folder(uri: str) -> None:
    """Removes a folder and all it holds; nothing happens when it is absent."""
    found, path = filesystem(uri)
    if is_folder(uri):
        with writing(uri):
            found.delete_dir(path)


def remove_file(uri: str) -> None:
    """Removes a file."""
    found, path = filesystem(uri)
    with writing(uri):
        found.delete_file(path)


@_reading
def read_bytes(uri: str) -> bytes:
    """The content of a file."""
    found, path = filesystem(uri)
    with found.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


@_reading
def open_file(uri: str) -> Any:
    """Open a file for random access, as a `pyarrow.NativeFile`."""
    found, path = filesystem(uri)
    return found.open_input_file(path)


@_reading
def open_stream(uri: str) -> Any:
    """Open a file for reading from start to end, without a buffer, as a `pyarrow.NativeFile`."""
    found, path = filesystem(uri)
    return found.open_input_stream(path, compression=None, buffer_size=0)


@_reading
def read_range(uri: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file; fewer when it ends before."""
    found, path = filesystem(uri)
    with found.open_input_file(path) as file:
        return bytes(file.read_at(stop - start, start))


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file whole: readers see the old content or the new, never a part.

    Raises:
        InputError: it cannot be written; the disk may be full.
    """
    with _whole(uri) as file, writing(uri):
        file.write(data)


@contextmanager
def _whole(uri: str) -> Iterator[Any]:
    """A file to write, which appears when the block ends; on a local disk nothing appears after an error."""
    found, path = filesystem(uri)
    if not isinstance(found, fs.LocalFileSystem):
        # An object appears when its upload is complete.
        with writing(uri):
            stream = found.open_output_stream(path, compression=None)
        try:
            yield stream
        finally:
            with writing(uri):
                stream.close()
        return
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with writing(uri):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("wb")
        try:
            yield file
            with writing(uri):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # what could not be flushed has been told above
                file.close()
        with writing(uri):
            part.replace(target)
    finally:
        with suppress(OSError):  # a file system that has become read-only
            part.unlink(missing_ok=True)


class FileWriter(io.RawIOBase):
    """A file that is written piece by piece and appears whole when the block ends; use it as a context manager.

    After an error nothing appears on a local disk; an object store may show what came before the error.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._opening = _whole(uri)
        self._file = self._opening.__enter__()

    @property
    def sha256(self) -> str:
        """Of what was written, hexadecimal."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        with writing(self._uri):
            self._file.write(data)
        written = memoryview(data).nbytes
        self.bytes += written
        return written

    def __exit__(self, *error: Any) -> None:
        self._opening.__exit__(*error)
        super().close()


@_reading
def sha256(uri: str) -> str:
    """sha256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    found, path = filesystem(uri)
    with found.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(uri: str) -> str:
    """sha256 of a file; of one over 1 GiB only of its size and its first and last 8 MiB, since dumps are huge."""
    size = file_size(uri) or 0
    if size <= _WHOLE_BYTES:
        return sha256(uri)
    ends = read_range(uri, 0, _CHUNK) + read_range(uri, size - _CHUNK, size)
    return hashlib.sha256(f"{size} ".encode() + ends).hexdigest()
