"""Local copies of remote files, in a folder that all processes of a machine share."""

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from distilray.errors import InputError
from distilray.runtime import storage

_CHUNK = 8 << 20
_LOCK, _PART = ".lock", ".part"  # suffixes


class LocalCache:
    """A folder of fetched files, and of folders of them, by name.

    An entry is complete or absent. When the files exceed the limit, the least recently used ones are removed; a process
    that has one mapped keeps it.

    Args:
        folder: on a local disk.
        noun: an entry, for messages: "a shard".
        remedy: the fix where the disk is full.
        max_bytes: the limit.
    """

    def __init__(self, folder: str, *, noun: str, remedy: str = "free space", max_bytes: float = math.inf) -> None:
        self._folder = Path(folder).expanduser()
        self._noun, self._remedy, self._max_bytes = noun, remedy, max_bytes

    def get(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """Return the path of an entry, fetched by one process where it is absent.

        Args:
            fetch: writes the entry to the path that it is called with, or raises.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        target = self._folder / name
        with contextlib.suppress(OSError):
            os.utime(target)  # the time of the last use
            return target
        with self._locked(target):
            if not target.exists():
                part = target.with_suffix(_PART)
                _remove(part)  # of a process that was killed
                try:
                    fetch(part)
                    with self._local_errors():
                        part.replace(target)
                finally:
                    _remove(part)
                self._evict(target)
        return target

    def download(self, uri: str, file: Path) -> str:
        """Copy a remote file and return its sha256, hexadecimal.

        Raises:
            InputError: the copy cannot be written.
            OSError: the remote file cannot be read to its end.
        """
        digest = hashlib.sha256()
        with self._local_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        with storage.open_stream(uri) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                with self._local_errors(), file.open("ab") as copy:
                    copy.write(chunk)
        with self._local_errors(), file.open("rb") as copy:
            os.fsync(copy.fileno())
        return digest.hexdigest()

    @contextlib.contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        """Exclude the other processes of this machine; the lock of a process that dies is free.

        Lock files stay: where one was removed while a process waits for it, two would fetch at the same time.
        """
        with self._local_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = target.with_suffix(_LOCK).open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _evict(self, kept: Path) -> None:
        """Remove the least recently used files beyond the limit."""
        files = []
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # removed by another process
                if file.is_file() and file.suffix not in (_LOCK, _PART):
                    status = file.stat()
                    files.append((status.st_mtime_ns, status.st_size, file))
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, file in sorted(files):
            if excess > 0 and file != kept:
                file.unlink(missing_ok=True)
                excess -= size

    @contextlib.contextmanager
    def _local_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self._folder}: {self._noun} cannot be kept there ({reason}); {self._remedy}") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
