"""Checks of the locations in a recipe that all machines of a cluster must see."""

import re
from pathlib import Path

from distilray.config.base import Config, JobConfig, locations
from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, path_of
from distilray.errors import InputError
from distilray.runtime.storage import SCHEMES

_LOGIN = re.compile(r"://[^/\s]*@")
_SHARED = "/mnt/shared"  # an example of a folder that every machine of a cluster sees
# File systems that many machines mount, as /proc/mounts names them.
_SHARED_KINDS = (
    "nfs", "nfs4", "lustre", "ceph", "beegfs", "gpfs", "cifs", "smb3", "glusterfs", "9p", "virtiofs", "fuse.",
)  # fmt: skip


def shared_locations(config: Config) -> dict[str, str]:
    """The locations that all machines must see, by dotted key."""
    return {each.key: each.value for each in locations(config) if each.location.is_shared}


def check_shared_locations(config: JobConfig, prefix: str = "") -> None:
    """Refuse locations that are not the same on every machine of a cluster.

    A relative folder would be in the unpacked upload, on one machine, and be deleted with it; `~` would be the home
    folder of one machine.

    Args:
        prefix: of keys on the command line.

    Raises:
        InputError: names the first key, the fix, and the other keys.
    """
    shared = {f"{prefix}{key}": value for key, value in shared_locations(config).items()}
    for key, value in shared.items():
        if has_credentials(value):
            raise InputError(f"{key}: a login in a URI, which job listings would show; use --secrets PATH or a role")
        scheme, separator, _ = value.partition("://")
        if separator and scheme not in SCHEMES:
            raise InputError(f"{key}={value}: scheme '{scheme}' is not one of {', '.join(SCHEMES)}")
    wrong = [key for key, value in shared.items() if not _is_the_same_everywhere(value)]
    if not wrong:
        return
    key, value = wrong[0], shared[wrong[0]]
    also = f" (likewise {', '.join(wrong[1:])})" if wrong[1:] else ""
    example = f"{_SHARED}/{value.removeprefix('~').lstrip('./')}".rstrip("/")
    is_home = value.startswith("~")
    reason = "the home folder" if is_home else "relative, so on a cluster it would be inside the unpacked upload"
    raise InputError(
        f"{key}={value}: {reason} of one machine; give a path or URI that all machines see, for instance "
        f"{example}{also}"
    )


def unshared_file_systems(config: JobConfig, mounts: str) -> dict[str, str]:
    """The kinds of file systems that other machines do not mount, by the keys whose paths are on them.

    Args:
        mounts: content of /proc/mounts of a machine of the cluster.
    """
    absolute = {key: value for key, value in shared_locations(config).items() if value.startswith(("/", "file://"))}
    kinds = {key: filesystem_type(path_of(value), mounts) for key, value in absolute.items()}
    return {key: kind for key, kind in kinds.items() if not kind.startswith(_SHARED_KINDS)}


def filesystem_type(path: Path, mounts: str) -> str:
    """The kind of file system of a path, as `/proc/mounts` has it; `unknown` when it is not there."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and (path.is_relative_to(fields[1])) and len(fields[1]) >= len(best):
            best, kind = fields[1], fields[2]
    return kind


def has_credentials(text: str) -> bool:
    """Return whether a text contains a URI with a user, password or token before its host."""
    return _LOGIN.search(text) is not None


def _is_the_same_everywhere(value: str) -> bool:
    return value.startswith(("/", SAMPLE_PREFIX, HUB_PREFIX)) or "://" in value
