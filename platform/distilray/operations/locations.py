"""Check that all machines of a cluster can reach the locations in a recipe."""

import re
from pathlib import Path

from distilray.config.base import Config, JobConfig, locations
from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, path_of
from distilray.errors import InputError
from distilray.runtime.storage import SCHEMES

_CREDENTIALS = re.compile(r"://[^/\s]*@")
_EXAMPLE_FOLDER = "/mnt/shared"
# File system types that many machines can mount at the same time, as written in /proc/mounts.
_SHARED_TYPES = (
    "nfs", "nfs4", "lustre", "ceph", "beegfs", "gpfs", "cifs", "smb3", "glusterfs", "9p", "virtiofs", "fuse.",
)  # fmt: skip


def shared_locations(config: Config) -> dict[str, str]:
    """Return the locations that all machines must be able to reach, by dotted key."""
    return {entry.key: entry.value for entry in locations(config) if entry.type.is_shared}


def check_shared_locations(config: JobConfig, prefix: str = "") -> None:
    """Refuse locations that would be different on each machine of a cluster.

    A relative path would refer to the unpacked upload, which exists on one machine and is deleted with the job; `~`
    would refer to the home folder of one machine.

    Args:
        prefix: prepended to the keys, as on the command line.

    Raises:
        InputError: a location is relative, on an unknown kind of storage or contains credentials.
    """
    shared = {f"{prefix}{key}": value for key, value in shared_locations(config).items()}
    for key, value in shared.items():
        if has_credentials(value):
            raise InputError(
                f"{key}: the URI contains credentials, which job listings would show; use --secrets PATH or a role"
            )
        scheme, separator, _ = value.partition("://")
        if separator and scheme not in SCHEMES:
            raise InputError(f"{key}={value}: scheme '{scheme}' is not one of {', '.join(SCHEMES)}")
    relative = [key for key, value in shared.items() if not _is_absolute(value)]
    if not relative:
        return
    key, value = relative[0], shared[relative[0]]
    others = f" (also {', '.join(relative[1:])})" if relative[1:] else ""
    example = f"{_EXAMPLE_FOLDER}/{value.removeprefix('~').lstrip('./')}".rstrip("/")
    is_home = value.startswith("~")
    reason = "the home folder" if is_home else "relative, so on a cluster it would be inside the unpacked upload"
    raise InputError(
        f"{key}={value}: {reason} of one machine; give a path or URI that all machines can reach, for instance "
        f"{example}{others}"
    )


def unshared_file_systems(config: JobConfig, mounts: str) -> dict[str, str]:
    """Return the file system type of every path that is not on a shared file system, by dotted key.

    Args:
        mounts: content of /proc/mounts on a machine of the cluster.
    """
    absolute = {key: value for key, value in shared_locations(config).items() if value.startswith(("/", "file://"))}
    types = {key: filesystem_type(path_of(value), mounts) for key, value in absolute.items()}
    return {key: fs_type for key, fs_type in types.items() if not fs_type.startswith(_SHARED_TYPES)}


def filesystem_type(path: Path, mounts: str) -> str:
    """Return the type of the file system that contains a path, according to /proc/mounts, or `unknown`."""
    mount_point, fs_type = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and path.is_relative_to(fields[1]) and len(fields[1]) >= len(mount_point):
            mount_point, fs_type = fields[1], fields[2]
    return fs_type


def has_credentials(text: str) -> bool:
    """Return whether the text contains a URI with a user name, password or token before its host."""
    return _CREDENTIALS.search(text) is not None


def _is_absolute(value: str) -> bool:
    return value.startswith(("/", SAMPLE_PREFIX, HUB_PREFIX)) or "://" in value
