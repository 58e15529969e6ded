"""Cache of remote files in a local folder, shared by all processes of a machine."""

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
_LOCK, _PARTIAL = ".lock", ".part"  # suffixes


class LocalCache:
    """Fetched files and folders by name.

    An entry is either complete or absent. If the files exceed the limit, the least recently used ones are removed; a
    process that has mapped a removed file can still read it.

    Args:
        folder: folder on a local disk.
        noun: name of an entry in messages, such as "a shard".
        remedy: advice in the message when an entry cannot be stored.
        max_bytes: size limit.
    """

    def __init__(self, folder: str, *, noun: str, remedy: str = "free space", max_bytes: float = math.inf) -> None:
        self._folder = Path(folder).expanduser()
        self._noun, self._remedy, self._max_bytes = noun, remedy, max_bytes

    def get(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """Return the path of an entry. If it is absent, exactly one process fetches it.

        Args:
            fetch: writes the entry to the given path, or raises.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        target = self._folder / name
        with contextlib.suppress(OSError):
            os.utime(target)  # record the last use
            return target
        with self._locked(target):
            if not target.exists():
                partial = target.with_suffix(_PARTIAL)
                _remove(partial)  # left by a process that was killed
                try:
                    fetch(partial)
                    with self._local_errors():
                        partial.replace(target)
                finally:
                    _remove(partial)
                self._evict(target)
        return target

    def download(self, uri: str, file: Path) -> str:
        """Copy a remote file and return its SHA-256 as hexadecimal.

        Raises:
            InputError: the copy cannot be written.
            OSError: the remote file cannot be read completely.
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
        """Exclude other processes of this machine. The operating system releases the lock if the process dies.

        Lock files are never removed: if one were removed while a process waits for it, both could fetch at once.
        """
        with self._local_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = target.with_suffix(_LOCK).open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _evict(self, keep: Path) -> None:
        """Remove the least recently used files, except `keep`, until the size limit is met."""
        files = []
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # removed by another process
                if file.is_file() and file.suffix not in (_LOCK, _PARTIAL):
                    status = file.stat()
                    files.append((status.st_mtime_ns, status.st_size, file))
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, file in sorted(files):
            if excess > 0 and file != keep:
                file.unlink(missing_ok=True)
                excess -= size

    @contextlib.contextmanager
    def _local_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self._folder}: cannot store {self._noun} there ({reason}); {self._remedy}") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
