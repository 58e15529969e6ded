"""Checks of this machine: disks, memory, CPUs and GPUs, as far as Ray and torch depend on them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from distilray.operations.doctor.check import Finding, fail, ok, together, warn

GB, MB = 10**9, 10**6
_RAY_FULL = 0.95  # Ray writes no objects to a disk that is fuller (RAY_local_fs_capacity_threshold)
_DISK_LEAST, _DISK_ENOUGH = 1 * GB, 10 * GB
_FILES_OF_A_RUN = 1000
_CONTAINER_SHM = 64 << 20
_MEMORY_LEAST, _MEMORY_ENOUGH = 3 * GB, 7 * GB
_RAY_STORE_SHARE, _RAY_STORE_MOST = 0.3, 200 * GB  # of the memory; Ray's own choice
_CGROUP = "sys/fs/cgroup"
_MEMORY_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
_AMPERE = (8, 0)  # the first with bf16
_DRIVER = re.compile(r"Kernel Module\D*(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Disk:
    """File system of a folder.

    Attributes:
        total, free: in bytes; free for this user.
        inodes: number of files that can still be created; None where the file system has no such limit.
    """

    folder: Path
    total: int
    free: int
    inodes: int | None = None

    @classmethod
    def of(cls, path: Path) -> Disk:
        """Return the file system of the nearest existing folder above a path."""
        folder = next(each for each in (path, *path.parents) if os.access(each, os.F_OK))
        stats = os.statvfs(folder)
        inodes = stats.f_favail if stats.f_files else None
        return cls(folder, stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize, inodes)


def check_disk(disk: Disk, *, needed: int | None = None, spills: bool = False) -> Finding:
    """Check the free space.

    Args:
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
    return f"{count / GB:.1f} GB" if count >= GB // 10 else f"{count / MB:.1f} MB"


def object_store_bytes(object_store_mb: int | None, memory: int) -> int:
    """Return the size of a local Ray's object store: that of the recipe, else Ray's choice for so much memory."""
    if object_store_mb is not None:
        return object_store_mb << 20
    return min(int(_RAY_STORE_SHARE * memory), _RAY_STORE_MOST)


def check_shared_memory(total: int, needed: int) -> Finding:
    """Check that the object store fits into /dev/shm.

    Args:
        total: bytes of /dev/shm; 0 where there is none.
        needed: bytes of the object store.
    """
    found = f"shared memory (/dev/shm): {total / MB:,.0f} MB, the object store takes {needed / MB:,.0f} MB"
    fix = f"start the container with --shm-size={-(-needed // (1 << 30)) + 1}g, or set ray.object_store_mb lower"
    if total <= _CONTAINER_SHM:
        return fail(f"{found}; 64 MB is the default of a container", fix)
    return ok(found) if total >= needed else warn(f"{found}; Ray uses a file on disk instead, far slower", fix)


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that this process may use, and that are free; the lower of machine and container."""

    total: int
    free: int

    @classmethod
    def of(cls, root: Path = Path("/")) -> Memory:
        pairs = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        kilobytes = {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) > 1}
        total, free = kilobytes["MemTotal"] << 10, kilobytes["MemAvailable"] << 10
        for limit, used in _MEMORY_LIMITS:
            most = _number(root / _CGROUP / limit)
            if most is not None and most < total:
                return cls(most, min(free, max(0, most - (_number(root / _CGROUP / used) or 0))))
        return cls(total, free)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def check_memory(memory: Memory) -> Finding:
    """Check that there is enough for Ray, the driver and two models."""
    found = f"{memory.free / GB:.1f} of {memory.total / GB:.1f} GB of memory free"
    if memory.free < _MEMORY_LEAST:
        fix = "end what else runs, or take a larger machine"
        return fail(f"{found}; Ray ends workers when the memory runs out", fix)
    if memory.free < _MEMORY_ENOUGH:
        return warn(found, "enough for small models; lower micro_batch_size and ray.num_cpus if workers are ended")
    return ok(found)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPUs that the container may use at once, None if they are not limited."""
    try:
        quota, period = (root / _CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def check_local_ray(num_cpus: int | None, cores: int, quota: float | None) -> Finding:
    """Check the CPUs of the local Ray that a job starts without a cluster.

    Args:
        num_cpus: `ray.num_cpus` of the recipe.
        cores: of the machine, as this process sees them.
        quota: see `cpu_quota`.
    """
    cpus = num_cpus or cores
    found = f"no cluster: a job would start a local Ray with {cpus} CPU{'s' if cpus > 1 else ''}"
    if quota is not None and cpus > -(-quota // 1):
        return warn(f"{found}, and this container may use {quota:g}", f"ray.num_cpus={max(1, round(quota))}")
    return ok(found)


@dataclass(frozen=True)
class Device:
    """A GPU: its name, memory in bytes, compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Torch:
    """The installed torch and the GPUs that it sees.

    Attributes:
        built_for: version of CUDA, None for a build for CPUs.
        driver: version of NVIDIA's driver on this machine, None where there is none.
        kernels: architectures that the build has kernels for, `sm_90` and so on.
    """

    version: str
    built_for: str | None
    driver: str | None
    devices: tuple[Device, ...] = ()
    kernels: tuple[str, ...] = ()

    @classmethod
    def of(cls, proc: Path = Path("/proc")) -> Torch:
        import torch

        file = proc / "driver/nvidia/version"
        driver = _DRIVER.search(file.read_text()) if file.is_file() else None
        properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        devices = tuple(Device(each.name, each.total_memory, (each.major, each.minor)) for each in properties)
        kernels = tuple(torch.cuda.get_arch_list())
        return cls(torch.__version__, torch.version.cuda, driver[1] if driver else None, devices, kernels)


def check_devices(torch: Torch) -> Finding:
    """Check that torch can use every GPU of the machine, and that it computes in bf16."""
    if torch.driver and torch.built_for is None:
        found = f"NVIDIA driver {torch.driver}, and torch {torch.version} is a build for CPUs"
        return fail(found, "install the CUDA build of torch of the same version")
    if torch.driver and not torch.devices:
        found = f"NVIDIA driver {torch.driver}, torch {torch.version} for CUDA {torch.built_for} sees no GPU"
        return fail(found, "a newer driver, --gpus all for the container, or CUDA_VISIBLE_DEVICES")
    if not torch.devices:
        return ok(f"torch {torch.version}, no GPU")
    findings = [_check_device(device, torch) for device in torch.devices]
    names = ", ".join(f"{device.name} of {device.memory / GB:.0f} GB" for device in torch.devices)
    return together(findings, f"torch {torch.version} for CUDA {torch.built_for}: {names}, bf16")


def _check_device(device: Device, torch: Torch) -> Finding:
    major, minor = device.capability
    built = {int(kernel.partition("_")[2]) for kernel in torch.kernels if kernel.partition("_")[2].isdigit()}
    # Kernels run on the same major version with an equal or higher minor one.
    if built and not any(number // 10 == major and number % 10 <= minor for number in built):
        found = f"{device.name} (sm_{major}{minor}): torch {torch.version} has no kernels for it"
        return fail(found, "another GPU, or a build of torch for it")
    if device.capability < _AMPERE:
        return warn(f"{device.name}: computes no bf16, so precision auto is fp32", "precision=fp16, or a newer GPU")
    return ok(device.name)
