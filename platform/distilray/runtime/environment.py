"""Environment variables: detection of a cluster, temporary values, and the secrets of a job.

A submission contains only the path of the secrets, because Ray displays the variables of its jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path

from distilray.errors import InputError

SECRETS_PATH = "DISTILRAY_SECRETS_PATH"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def inside_cluster() -> bool:
    """Return whether RAY_ADDRESS names a cluster. Ray sets it for every submitted job."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


@contextlib.contextmanager
def temporary_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process and its children while the block runs."""
    previous = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def load_secrets(environ: MutableMapping[str, str]) -> None:
    """Add the secrets of the job, if `DISTILRAY_SECRETS_PATH` is set, to its variables. They override existing values.

    Raises:
        InputError: see `read_secrets`.
    """
    if path := environ.get(SECRETS_PATH):
        environ.update(read_secrets(Path(path)))


def worker_setup_hook(environ: MutableMapping[str, str]) -> Callable[[], None] | None:
    """Return a `worker_process_setup_hook` that loads the secrets in each Ray worker, or None without secrets."""
    if not (path := environ.get(SECRETS_PATH)):
        return None

    def load_job_secrets() -> None:
        try:
            os.environ.update(read_secrets(Path(path)))
        except InputError as error:  # an exception in the hook would kill the worker
            print(f"{error} (on {os.uname().nodename}; this worker has no secrets)", file=sys.stderr, flush=True)

    return load_job_secrets


def read_secrets(path: Path) -> dict[str, str]:
    """Read variables from a file of NAME=VALUE lines, or from a folder with one file per variable.

    Kubernetes mounts a Secret as such a folder. Values are literal, except that one pair of quotes around the value in
    a line is removed.

    Raises:
        InputError: names the file and the line, but never the content.
    """
    try:
        secrets = _read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise InputError(f"secrets {error.filename or path}: {error.strerror}") from None
    if not secrets:
        raise InputError(f"secrets {path}: empty; write NAME=VALUE lines, or one file per variable into a folder")
    return secrets


def _read_folder(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]  # Kubernetes adds ..data
    for file in files:
        if not _NAME.fullmatch(file.name):
            raise InputError(f"secrets {file}: name each file after its variable, e.g. WANDB_API_KEY")
    return {file.name: _read_text(file).rstrip("\r\n") for file in files}


def _read_file(file: Path) -> dict[str, str]:
    secrets = {}
    for number, line in enumerate(_read_text(file).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if not separator or not _NAME.fullmatch(name):
            raise InputError(f"secrets {file}: line {number}: write NAME=VALUE")
        is_quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
        secrets[name] = value[1:-1] if is_quoted else value
    return secrets


def _read_text(file: Path) -> str:
    status = file.stat()
    # Like ssh, check only files that this user owns; the mode of others, such as a mounted Secret, cannot be changed.
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        raise InputError(f"secrets {file}: other users may read it; run `chmod 600 {file}`")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"secrets {file}: not a UTF-8 text file")
    return text
