"""A trial of the place that a run would be written to: publish, publish again, read, list, remove."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from distilray.errors import InputError
from distilray.operations.doctor.check import Finding, fail, ok
from distilray.runtime import storage

_PREFIX = ".distilray-doctor-"  # data readers skip names with a dot


def check_store(uri: str, clock: Callable[[], float] = time.monotonic) -> Finding:
    """Files can be published there whole, and are seen at once.

    Args:
        uri: a folder, that need not be there yet. Nothing stays there, and a folder that was missing is missing again.
        clock: seconds.

    Raises:
        InputError: no such storage, or the probe cannot be written.
    """
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    probe, missing, started = storage.join(uri, name), _missing_folders(uri), clock()
    try:
        step = _try_out(probe, uri, name)
    except OSError as error:
        step = error.strerror or str(error)
    finally:
        _tidy(probe, missing)
    if step:
        return fail(f"{uri}: {step}", "check rights, credentials and quota of this place, or choose another run_dir")
    return ok(f"{uri}: written whole, replaced, read, listed and removed in {clock() - started:.2f} s")


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
