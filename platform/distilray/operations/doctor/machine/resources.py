"""Disks, shared memory, memory and file descriptors of this machine, as far as Ray depends on them."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from distilray.operations.doctor.check import Finding, fail, ok, warn

GB, MB = 10**9, 10**6
_RAY_FULL = 0.95  # Ray writes no objects to a disk that is fuller (RAY_local_fs_capacity_threshold)
_DISK_LEAST, _DISK_ENOUGH = 1 * GB, 10 * GB
_FILES_OF_A_RUN = 1000
_CONTAINER_SHM = 64 << 20
_MEMORY_LEAST, _MEMORY_ENOUGH = 3 * GB, 7 * GB
_FILES_LEAST, _FILES_ENOUGH, _FILES_CLUSTER = 1024, 8192, 65_536
_RAY_STORE_SHARE, _RAY_STORE_MOST = 0.3, 200 * GB  # of the memory; Ray's own choice


@dataclass(frozen=True)
class Disk:
    """File system of a folder.

    Attributes:
        total: in bytes.
        free: in bytes, for this user.
        inodes: number of files that can still be created; None where the file system has no such limit.
    """

    folder: Path
    total: int
    free: int
    inodes: int | None = None

    @classmethod
    def of(cls, path: Path) -> Disk:
        """The file system that a path would be written to: of the nearest folder above it that this user can see."""
        folder = next(each for each in (path, *path.parents) if os.access(each, os.F_OK))
        stats = os.statvfs(folder)
        inodes = stats.f_favail if stats.f_files else None
        return cls(folder, stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize, inodes)


def check_disk(disk: Disk, *, needed: int | None = None, spills: bool = False) -> Finding:
    """There is room.

    Args:
        disk: where.
        needed: bytes that a run leaves there, if that is known.
        spills: whether Ray writes its sessions and what its memory cannot hold there.
    """
    space = f"{disk.folder}: {format_size(disk.free)} of {format_size(disk.total)} free"
    if needed is not None:
        space += f", about {needed / GB:.1f} GB needed"
    if disk.free < max(needed or 0, _DISK_LEAST):
        return fail(space, "free space, or choose another folder")
    if disk.inodes is not None and disk.inodes < _FILES_OF_A_RUN:
        return fail(f"{space}, but room for only {disk.inodes:,} more files", "delete files, or choose another folder")
    if spills and disk.free < (1 - _RAY_FULL) * disk.total:
        return fail(f"{space}; Ray writes no objects to a disk that is {_RAY_FULL:.0%} full", "free space")
    if disk.free < _DISK_ENOUGH:
        return warn(space, "free space: spilled objects and checkpoints grow during a run")
    return ok(space)


def format_size(count: int) -> str:
    """Bytes in GB, or in MB if there are few."""
    return f"{count / GB:.1f} GB" if count >= GB // 10 else f"{count / MB:.1f} MB"


def object_store_bytes(object_store_mb: int | None, memory: int) -> int:
    """The object store of a local Ray: what the recipe says, else what Ray chooses for so much memory."""
    return (
        object_store_mb << 20 if object_store_mb is not None else min(int(_RAY_STORE_SHARE * memory), _RAY_STORE_MOST)
    )


def check_shared_memory(total: int, needed: int) -> Finding:
    """The object store fits into /dev/shm.

    Args:
        total: bytes of /dev/shm; 0 where there is none.
        needed: bytes of the object store.
    """
    told = f"shared memory (/dev/shm): {total / MB:,.0f} MB, the object store takes {needed / MB:,.0f} MB"
    fix = f"start the container with --shm-size={-(-needed // (1 << 30)) + 1}g, or set ray.object_store_mb lower"
    if total <= _CONTAINER_SHM:
        return fail(f"{told}; 64 MB is what a container has that was not told more", fix)
    return ok(told) if total >= needed else warn(f"{told}; Ray goes on in a file on disk, far slower", fix)


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that this process may use, and that are free; the lower of machine and container."""

    total: int
    free: int

    @classmethod
    def of(cls, root: Path = Path("/")) -> Memory:
        """What the kernel says.

        Raises:
            OSError: it says nothing.
        """
        pairs = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        kilobytes = {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) > 1}
        total, free = kilobytes["MemTotal"] << 10, kilobytes["MemAvailable"] << 10
        group = root / "sys/fs/cgroup"
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        ):
            most = _number(group / limit)
            if most is not None and most < total:
                return cls(most, min(free, max(0, most - (_number(group / used) or 0))))
        return cls(total, free)


def check_memory(memory: Memory) -> Finding:
    """There is enough for Ray, the driver and two models."""
    told = f"{memory.free / GB:.1f} of {memory.total / GB:.1f} GB of memory free"
    if memory.free < _MEMORY_LEAST:
        return fail(
            f"{told}; Ray ends workers when the memory runs out", "end what else runs, or take a larger machine"
        )
    if memory.free < _MEMORY_ENOUGH:
        return warn(told, "enough for small models; lower micro_batch_size and ray.num_cpus if workers are ended")
    return ok(told)


def check_files(soft: int, hard: int, *, cluster: bool) -> Finding:
    """Enough files and sockets can be open at once; Ray raises the soft limit to the hard one itself.

    Args:
        soft: limit of this process.
        hard: what it may be raised to.
        cluster: whether this machine is to talk to many others.
    """
    told = f"{soft:,} open files, {hard:,} at most" if hard != resource.RLIM_INFINITY else f"{soft:,} open files"
    most = float("inf") if hard == resource.RLIM_INFINITY else hard
    enough = _FILES_CLUSTER if cluster else _FILES_ENOUGH
    fix = f"raise the limit: ulimit -Hn {enough}, or --ulimit nofile={enough}:{enough} for a container"
    if most < _FILES_LEAST:
        return fail(told, fix)
    return ok(told) if most >= enough else warn(f"{told}: few for many workers", fix)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the container may use at once, None without a bound."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def check_local_ray(num_cpus: int | None, cores: int, quota: float | None) -> Finding:
    """Without a cluster a job starts a local Ray, with no more CPUs than it may use.

    Args:
        num_cpus: `ray.num_cpus` of the recipe.
        cores: of the machine, as this process sees them.
        quota: see `cpu_quota`.
    """
    cpus = num_cpus or cores
    told = f"no cluster: a job would start a local Ray with {cpus} CPU{'s' if cpus > 1 else ''}"
    if quota is not None and cpus > -(-quota // 1):
        return warn(f"{told}, and this container may use {quota:g}", f"ray.num_cpus={max(1, round(quota))}")
    return ok(told)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
