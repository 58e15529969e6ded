"""Shards of an object store on the disk of this machine: fetched once, by whichever process needs one first."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from distilray.config.pretraining_data import CacheConfig
from distilray.errors import InputError
from distilray.runtime import storage

_CHUNK = 8 << 20
_ATTEMPTS = 2
_GB = 1e9
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardCache:
    """A folder of shards named by their sha256, shared by all processes of a machine.

    A file is there whole or not at all, and holds what its name says. When the folder grows beyond its limit, those
    that were not used for longest go; a process that has one mapped keeps it.
    """

    def __init__(self, config: CacheConfig | None = None) -> None:
        config = config or CacheConfig()
        self._folder = Path(config.directory).expanduser()
        self._max_bytes = config.max_gb * _GB

    def path(self, uri: str, entry: Mapping[str, Any]) -> Path:
        """A shard's file if it lies on this machine, else its copy here."""
        return storage.local_path(uri) if storage.is_local(uri) else self.local(uri, entry)

    def local(self, uri: str, entry: Mapping[str, Any]) -> Path:
        """The copy of a shard on this machine, fetched if need be.

        Args:
            uri: the shard.
            entry: of the manifest; its `sha256`.

        Raises:
            InputError: the shard is not what the manifest says, or there is no room for it.
        """
        if not _SHA256.fullmatch(str(entry["sha256"])):  # it names files here, and may come from a foreign run
            raise InputError(f"{uri}: its manifest has no sha256 for it; run its job again")
        target = self._folder / f"{entry['sha256']}.arrow"
        with contextlib.suppress(OSError):
            os.utime(target)  # tells that it was used
            return target
        with self._locked(entry["sha256"]):
            if not target.exists():
                self._download(uri, entry["sha256"], target)
                self._evict(target)
        return target

    def begin(self, uri: str, entry: Mapping[str, Any]) -> None:
        """Fetches a shard in the background; a failure is told when it is asked for."""
        if not storage.is_local(uri):
            self._background.submit(self.local, uri, entry)

    @cached_property
    def _background(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="shards")

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Of all processes of this machine one at a time; the lock of a process that dies is free."""
        with self._room():
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / f"{name}.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _download(self, uri: str, sha256: str, target: Path) -> None:
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            for _ in range(_ATTEMPTS):
                if self._copy(uri, part) == sha256:
                    with self._room():
                        part.replace(target)
                    return
        finally:
            part.unlink(missing_ok=True)
        raise InputError(f"{uri}: its content is not what the manifest says (sha256); run its job again")

    def _copy(self, uri: str, part: Path) -> str:
        digest = hashlib.sha256()
        found, path = storage.filesystem(uri)
        with self._room():
            part.write_bytes(b"")
        with found.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                with self._room(), part.open("ab") as file:
                    file.write(chunk)
        return digest.hexdigest()

    def _evict(self, kept: Path) -> None:
        """Removes the least recently used shards beyond the limit."""
        files = []
        for file in self._folder.glob("*.arrow"):
            with contextlib.suppress(OSError):  # another process has removed it
                status = file.stat()
                files.append((status.st_mtime, status.st_size, file))
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, file in sorted(files):
            if excess <= 0:
                return
            if file != kept:
                file.unlink(missing_ok=True)
                file.with_suffix(".lock").unlink(missing_ok=True)
                excess -= size

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self._folder}: a shard cannot be kept there ({reason}); free space, or set cache.directory"
            ) from None
