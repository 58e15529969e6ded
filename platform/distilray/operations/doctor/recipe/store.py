"""Write probe of the folder or bucket of a run: publish, publish again, read, list, remove."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from distilray.config.paths import is_path, path_of
from distilray.errors import InputError
from distilray.operations.doctor.check import Finding, fail, ok
from distilray.runtime import storage

_PREFIX = ".distilray-doctor-"  # data readers skip names with a dot
_FIX = "check permissions, credentials and quota of this location, or choose another run_dir"
_NO_PERMISSION = (errno.EACCES, errno.EPERM)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def check_store(uri: str, clock: Callable[[], float] = time.monotonic) -> Finding:
    """Files can be published there whole, and are seen at once.

    Args:
        uri: a folder, that need not be there yet. Nothing stays there, and a folder that was missing is missing again.
        clock: seconds.

    Raises:
        InputError: no such storage.
    """
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    probe, missing, started = storage.join(uri, name), [], clock()
    try:
        missing = _missing_folders(uri)
        step = _try_out(probe, uri, name)
    except (OSError, InputError) as error:
        cause = _os_error(error)
        if cause is None:
            raise
        return _write_failure(uri, cause)
    finally:
        _tidy(probe, missing)
    if step:
        return fail(f"{uri}: {step}", _FIX)
    return ok(f"{uri}: written whole, replaced, read, listed and removed in {clock() - started:.2f} s")


def _os_error(error: BaseException | None) -> OSError | None:
    """The error of the operating system behind an exception; `storage` replaces it by an `InputError`."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _write_failure(uri: str, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    if not is_path(uri):
        return fail(f"{uri}: {reason}", _FIX)
    if error.errno in _NO_PERMISSION:
        folder = _closed_folder(path_of(uri))
        return fail(
            f"{uri}: no permission for user {os.geteuid()}, {folder}", "chmod or chown it, or choose another run_dir"
        )
    if error.errno in _NO_SPACE:
        return fail(f"{uri}: no space ({reason})", "free space or raise the quota, or choose another run_dir")
    if error.errno == errno.EROFS:
        return fail(f"{uri}: {reason}", "mount it for writing, or choose another run_dir")
    return fail(f"{uri}: {reason}", _FIX)


def _closed_folder(path: Path) -> str:
    """The topmost folder on the way to a path that this user cannot enter, else the last that exists, and its mode."""
    above = [each for each in (path, *path.parents) if os.access(each, os.F_OK)]
    folder = next((each for each in reversed(above) if not os.access(each, os.X_OK)), above[0])
    status = folder.stat()
    return f"{folder} is {stat.filemode(status.st_mode)} of user {status.st_uid}"


def _try_out(probe: str, uri: str, name: str) -> str:
    """What did not work; empty when all did."""
    for content in (secrets.token_bytes(1 << 16), secrets.token_bytes(100)):
        storage.write_bytes(probe, content)
        if storage.read_bytes(probe) != content:
            return "reads give something else than what was written"
    if not any(file.rpartition("/")[2] == name for file in storage.list_files(uri)):
        return "a file that was written is not listed"
    storage.remove_file(probe)
    return "a file that was removed is still there" if storage.exists(probe) else ""


def _missing_folders(uri: str) -> list[str]:
    """The folder and those above it that are not there, the deepest first; no bucket."""
    found, missing = uri.rstrip("/"), []
    top = 3 if "://" in uri else 0  # scheme, nothing, bucket
    while found.count("/") >= top and found and not storage.exists(found):
        missing.append(found)
        found = found.rpartition("/")[0]
    return missing


def _tidy(probe: str, missing: list[str]) -> None:
    """Removes the probe and the folders that appeared with it, unless somebody else has begun to use them."""
    try:
        if storage.exists(probe):
            storage.remove_file(probe)
        for folder in missing:
            store, path = storage.filesystem(folder)
            if isinstance(store, fs.LocalFileSystem):
                Path(path).rmdir()  # refuses a folder that is not empty
            elif not store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True)):
                storage.remove_folder(folder)
    except (OSError, InputError):
        return  # what has not been created, or is in use
