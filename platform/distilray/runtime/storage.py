"""Access to local paths and object-store URIs through `pyarrow.fs`, with atomic writes."""

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
READ_THREADS = 16  # concurrent requests to an object store, whose latency is high
_CHUNK = 8 << 20
_MAX_FULL_HASH_BYTES = 1 << 30

F = TypeVar("F", bound=Callable[..., Any])


def _reading(function: F) -> F:
    """Wrap a function of a URI in `reading`."""

    @functools.wraps(function)
    def wrapper(uri: str, *args: Any, **kwargs: Any) -> Any:
        with reading(uri):
            return function(uri, *args, **kwargs)

    return cast("F", wrapper)


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a path or URI, and the path within it.

    Do not send it to another process: pickling drops the retry strategy of an S3 filesystem.

    Raises:
        InputError: the scheme is not one of `SCHEMES`, or the URI contains a password or is invalid.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if not scheme:
        if uri.partition(":")[0] in SCHEMES and ":" in uri:
            raise InputError(f"{uri}: write a URI with ://, as in file:///data or s3://bucket/data")
        return fs.LocalFileSystem(), os.path.abspath(expand_home(uri))
    if scheme not in SCHEMES:
        raise InputError(
            f"{uri}: scheme '{scheme}' is not one of {', '.join(SCHEMES)}; use one of these, or a plain path"
        )
    _check_no_password(uri)
    try:
        store, path = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"{uri}: {error}; correct the URI or the access to it") from None
    return store, path


def _check_no_password(uri: str) -> None:
    """Reject a URI with a password, which configs, manifests and reports would expose."""
    parts = urlsplit(uri)
    if parts.password is not None:
        shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise InputError(f"{shown}: a password in a URI; remove it, and put credentials into the environment")


def join(uri: str, *names: str) -> str:
    """Return the URI of a file or folder below `uri`."""
    return "/".join([uri.rstrip("/"), *names]) or "/"


def is_local(uri: str) -> bool:
    """Return whether the URI is a path on this machine."""
    return isinstance(filesystem(uri)[0], fs.LocalFileSystem)


def local_path(uri: str) -> Path:
    """Return the path of a local URI.

    Raises:
        InputError: the URI refers to an object store.
    """
    store, path = filesystem(uri)
    if not isinstance(store, fs.LocalFileSystem):
        raise InputError(f"{uri}: must be a folder on this machine; copy it to a local path first")
    return Path(path)


def exists(uri: str) -> bool:
    """Return whether a file or folder exists."""
    return file_size(uri) is not None


@_reading
def file_size(uri: str) -> int | None:
    """Return the size of a file in bytes, 0 for a folder, or None if nothing exists."""
    store, path = filesystem(uri)
    info = store.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        return None
    return info.size or 0


@_reading
def file_stamp(uri: str) -> tuple[int, int]:
    """Return the size of a file in bytes and its modification time in ns."""
    store, path = filesystem(uri)
    info = store.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


@_reading
def is_folder(uri: str) -> bool:
    """Return whether a folder exists."""
    store, path = filesystem(uri)
    return bool(store.get_file_info(path).type == fs.FileType.Directory)


@_reading
def list_files(uri: str, suffix: str = "") -> list[str]:
    """Return the sorted URIs of the files directly in a folder that end with `suffix`; empty if there is no folder."""
    store, path = filesystem(uri)
    quoted = "://" in uri  # in URIs, spaces and percent signs in names are escaped
    selector = fs.FileSelector(path, recursive=False, allow_not_found=True)
    names = [info.base_name for info in store.get_file_info(selector) if info.type == fs.FileType.File]
    return [join(uri, quote(name) if quoted else name) for name in sorted(names) if name.endswith(suffix)]


def make_folder(uri: str) -> None:
    """Create a folder and its missing parents."""
    store, path = filesystem(uri)
    try:
        store.create_dir(path, recursive=True)
    except OSError as error:
        raise InputError(f"{uri}: cannot be created ({error}); choose a writable folder") from None


def remove_folder(uri: str) -> None:
    """Remove a folder and its content, if it exists."""
    store, path = filesystem(uri)
    if is_folder(uri):
        with writing(uri):
            store.delete_dir(path)


def remove_file(uri: str) -> None:
    store, path = filesystem(uri)
    with writing(uri):
        store.delete_file(path)


@_reading
def read_bytes(uri: str) -> bytes:
    store, path = filesystem(uri)
    with store.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


@_reading
def open_file(uri: str) -> Any:
    """Open a file for random access; returns a `pyarrow.NativeFile`."""
    store, path = filesystem(uri)
    return store.open_input_file(path)


@_reading
def open_stream(uri: str) -> Any:
    """Open a file for unbuffered sequential reading; returns a `pyarrow.NativeFile`."""
    store, path = filesystem(uri)
    return store.open_input_stream(path, compression=None, buffer_size=0)


@_reading
def read_range(uri: str, start: int, stop: int) -> bytes:
    """Return the bytes [start, stop) of a file, or fewer if the file ends earlier."""
    store, path = filesystem(uri)
    with store.open_input_file(path) as file:
        return bytes(file.read_at(stop - start, start))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically: readers see either the old or the new content.

    Raises:
        InputError: the file cannot be written, for example because the disk is full.
    """
    with _atomic_file(uri) as file, writing(uri):
        file.write(data)


@contextmanager
def _atomic_file(uri: str) -> Iterator[Any]:
    """Open a file that appears under its name when the block ends. After an error, no local file appears."""
    store, path = filesystem(uri)
    if not isinstance(store, fs.LocalFileSystem):
        # An object becomes visible when its upload is complete.
        with writing(uri):
            stream = store.open_output_stream(path, compression=None)
        try:
            yield stream
        finally:
            with writing(uri):
                stream.close()
        return
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with writing(uri):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("wb")
        try:
            yield file
            with writing(uri):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # the error of a failed flush was raised above
                file.close()
        with writing(uri):
            partial.replace(target)
    finally:
        with suppress(OSError):  # the file system became read-only
            partial.unlink(missing_ok=True)


class FileWriter(io.RawIOBase):
    """Context manager that writes a file incrementally; the file appears when the block ends.

    After an error, nothing appears on a local disk, but an object store may contain the data before the error.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._context = _atomic_file(uri)
        self._file = self._context.__enter__()

    @property
    def sha256(self) -> str:
        """SHA-256 of the data written so far, as hexadecimal."""
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
        self._context.__exit__(*error)
        super().close()


@_reading
def sha256(uri: str) -> str:
    """Return the SHA-256 of a file as hexadecimal."""
    digest = hashlib.sha256()
    store, path = filesystem(uri)
    with store.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(uri: str) -> str:
    """Return the SHA-256 of a file; of a file above 1 GiB, only of its size and its first and last 8 MiB."""
    size = file_size(uri) or 0
    if size <= _MAX_FULL_HASH_BYTES:
        return sha256(uri)
    ends = read_range(uri, 0, _CHUNK) + read_range(uri, size - _CHUNK, size)
    return hashlib.sha256(f"{size} ".encode() + ends).hexdigest()
