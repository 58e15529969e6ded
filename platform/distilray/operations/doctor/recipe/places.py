"""Where a recipe reads and writes: places that every machine of the run must see alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, expand_home
from distilray.operations.doctor.check import Finding, fail, together, warn

if TYPE_CHECKING:
    from distilray.config.base import JobConfig

# File systems that many machines mount, as /proc/mounts names them.
_SHARED = ("nfs", "nfs4", "lustre", "ceph", "beegfs", "gpfs", "cifs", "smb3", "glusterfs", "9p", "virtiofs", "fuse.")
_ELSEWHERE = (HUB_PREFIX, SAMPLE_PREFIX)


def places_of(config: JobConfig) -> dict[str, str]:
    """The folders of a recipe and its sections, by dotted key, without models on the hub and samples."""
    from distilray.config.base import locations

    named = {key: value for key, value, mark in locations(config) if mark.is_absolute}
    return {key: value for key, value in named.items() if not value.startswith(_ELSEWHERE)}


def is_path(uri: str) -> bool:
    """Whether a place is a path; by its form alone, since pyarrow asks an object store for the region of a bucket."""
    return "://" not in uri or uri.startswith("file://")


def path_of(uri: str) -> Path:
    """The absolute path that a path or file URI names."""
    return Path(unquote(urlsplit(uri).path) if "://" in uri else expand_home(uri)).absolute()


def mounted_as(path: Path, mounts: str) -> str:
    """The kind of file system that a path lies on, as `/proc/mounts` has it; `unknown` when it does not tell."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and (path.is_relative_to(fields[1])) and len(fields[1]) >= len(best):
            best, kind = fields[1], fields[2]
    return kind


def check_places(config: JobConfig, mounts: str | None) -> Finding:
    """On a cluster, every folder of the recipe is one that all machines see.

    Args:
        mounts: content of /proc/mounts of a machine of the cluster; None where this process runs outside of it.
    """
    findings = []
    for key, value in places_of(config).items():
        if not is_path(value):
            continue
        path = path_of(value)
        if "://" not in value and not Path(expand_home(value)).is_absolute():
            told = f"{key}: {value} is relative, on a cluster below the unpacked upload of one machine"
            findings.append(fail(told, f"{key}=/absolute/shared/folder, or a URI"))
        elif mounts is not None and not (kind := mounted_as(path, mounts)).startswith(_SHARED):
            told = f"{key}: {value} is on {kind}, a disk of this machine alone"
            findings.append(warn(told, "a folder that all machines mount, or a URI"))
    return together(findings, "folders are absolute or URIs" + ("" if mounts is None else ", on shared file systems"))
