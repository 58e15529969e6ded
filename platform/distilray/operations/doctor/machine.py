"""Checks of this machine's disks, memory, CPUs and GPUs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from distilray.operations.doctor.check import Finding, combine, fail, ok, warn

GB, MB = 10**9, 10**6
_SPILL_LIMIT = 0.95  # Ray does not spill to a disk that is fuller than this (RAY_local_fs_capacity_threshold)
_DISK_MIN, _DISK_LOW = 1 * GB, 10 * GB
_MIN_FREE_INODES = 1000
_CONTAINER_SHM = 64 << 20
_MEMORY_MIN, _MEMORY_LOW = 3 * GB, 7 * GB
_RAY_STORE_SHARE, _RAY_STORE_MAX = 0.3, 200 * GB  # of the memory; Ray's defaults
_CGROUP = "sys/fs/cgroup"
_MEMORY_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
# First compute capabilities with tensor cores, and with bf16.
_VOLTA, _AMPERE = (7, 0), (8, 0)
_DRIVER = re.compile(r"Kernel Module\D*(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Disk:
    """File system that contains a folder.

    Attributes:
        total: bytes.
        free: bytes that this user can still write.
        free_inodes: number of files that can still be created, or None if the file system has no such limit.
    """

    folder: Path
    total: int
    free: int
    free_inodes: int | None = None

    @classmethod
    def of(cls, path: Path) -> Disk:
        """Return the file system of the path or of its nearest existing parent."""
        folder = next(parent for parent in (path, *path.parents) if os.access(parent, os.F_OK))
        stats = os.statvfs(folder)
        free_inodes = stats.f_favail if stats.f_files else None
        return cls(folder, stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize, free_inodes)


def check_disk(disk: Disk, *, needed: int | None = None, spills: bool = False) -> Finding:
    """Check the free space.

    Args:
        needed: bytes that a run will keep there; None if unknown.
        spills: whether Ray stores its session files and spilled objects there.
    """
    space = f"{disk.folder}: {format_size(disk.free)} of {format_size(disk.total)} free"
    if needed is not None:
        space += f", about {needed / GB:.1f} GB needed"
    if disk.free < max(needed or 0, _DISK_MIN):
        return fail(space, "free space, or choose another folder")
    if disk.free_inodes is not None and disk.free_inodes < _MIN_FREE_INODES:
        return fail(
            f"{space}, but only {disk.free_inodes:,} more files can be created",
            "delete files, or choose another folder",
        )
    if spills and disk.free < (1 - _SPILL_LIMIT) * disk.total:
        return fail(f"{space}; Ray does not spill objects to a disk that is {_SPILL_LIMIT:.0%} full", "free space")
    if disk.free < _DISK_LOW:
        return warn(space, "free space, since spilled objects and checkpoints grow during a run")
    return ok(space)


def format_size(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB // 10 else f"{count / MB:.1f} MB"


def object_store_bytes(object_store_mb: int | None, memory: int) -> int:
    """Return the size of a local Ray's object store: the recipe's setting, else Ray's default for this memory."""
    if object_store_mb is not None:
        return object_store_mb << 20
    return min(int(_RAY_STORE_SHARE * memory), _RAY_STORE_MAX)


def check_shared_memory(total: int, needed: int) -> Finding:
    """Check that the object store fits into /dev/shm.

    Args:
        total: bytes of /dev/shm; 0 if it does not exist.
        needed: bytes of the object store.
    """
    message = f"shared memory (/dev/shm): {total / MB:,.0f} MB, the object store needs {needed / MB:,.0f} MB"
    fix = f"start the container with --shm-size={-(-needed // (1 << 30)) + 1}g, or lower ray.object_store_mb"
    if total <= _CONTAINER_SHM:
        return fail(f"{message}; 64 MB is the default in containers", fix)
    return ok(message) if total >= needed else warn(f"{message}; Ray uses a much slower file on disk instead", fix)


@dataclass(frozen=True)
class Memory:
    """Total and free memory in bytes, limited by the machine or the container."""

    total: int
    free: int

    @classmethod
    def of(cls, root: Path = Path("/")) -> Memory:
        fields = [line.split() for line in (root / "proc/meminfo").read_text().splitlines()]
        kilobytes = {row[0].rstrip(":"): int(row[1]) for row in fields if len(row) > 1}
        total, free = kilobytes["MemTotal"] << 10, kilobytes["MemAvailable"] << 10
        for limit_file, usage_file in _MEMORY_LIMITS:
            limit, used = _read_number(root / _CGROUP / limit_file), _read_number(root / _CGROUP / usage_file)
            if limit is not None and limit < total:
                return cls(limit, min(free, max(0, limit - (used or 0))))
        return cls(total, free)


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def check_memory(memory: Memory) -> Finding:
    """Check that the memory suffices for Ray, the driver and two models."""
    message = f"{memory.free / GB:.1f} of {memory.total / GB:.1f} GB of memory free"
    if memory.free < _MEMORY_MIN:
        fix = "stop other processes, or use a larger machine"
        return fail(f"{message}; Ray kills workers when memory runs out", fix)
    if memory.free < _MEMORY_LOW:
        return warn(message, "enough for small models; lower micro_batch_size and ray.num_cpus if workers are killed")
    return ok(message)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the number of CPUs to which the container is limited, or None if there is no limit."""
    try:
        quota, period = (root / _CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def check_local_ray(num_cpus: int | None, cores: int, quota: float | None) -> Finding:
    """Check the number of CPUs of the local Ray that a job starts without a cluster.

    Args:
        num_cpus: `ray.num_cpus` of the recipe.
        cores: number of cores of the machine.
        quota: see `cpu_quota`.
    """
    cpus = num_cpus or cores
    message = f"no cluster: a job would start a local Ray with {cpus} CPU{'s' if cpus > 1 else ''}"
    if quota is not None and cpus > -(-quota // 1):
        return warn(f"{message}, but this container may use only {quota:g}", f"ray.num_cpus={max(1, round(quota))}")
    return ok(message)


@dataclass(frozen=True)
class Gpu:
    """A GPU with its memory in bytes and its compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch and the GPUs that it sees.

    Attributes:
        cuda: CUDA version for which torch was built, or None for a CPU build.
        driver: version of NVIDIA's driver on this machine, or None if it is not installed.
        kernels: architectures for which the build has kernels, e.g. `sm_90`.
    """

    version: str
    cuda: str | None
    driver: str | None
    gpus: tuple[Gpu, ...] = ()
    kernels: tuple[str, ...] = ()

    @classmethod
    def of(cls, proc: Path = Path("/proc")) -> TorchBuild:
        import torch

        file = proc / "driver/nvidia/version"
        driver = _DRIVER.search(file.read_text()) if file.is_file() else None
        properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        gpus = tuple(Gpu(gpu.name, gpu.total_memory, (gpu.major, gpu.minor)) for gpu in properties)
        kernels = tuple(torch.cuda.get_arch_list())
        return cls(torch.__version__, torch.version.cuda, driver[1] if driver else None, gpus, kernels)


def check_gpus(torch: TorchBuild) -> Finding:
    """Check that torch can use every GPU of the machine, and that all of them compute in 16 bits."""
    if torch.driver and torch.cuda is None:
        message = f"NVIDIA driver {torch.driver}, but torch {torch.version} is a CPU build"
        return fail(message, "install the CUDA build of the same torch version")
    if torch.driver and not torch.gpus:
        message = f"NVIDIA driver {torch.driver}, but torch {torch.version} for CUDA {torch.cuda} sees no GPU"
        return fail(
            message, "install a newer driver, run the container with --gpus all, or correct CUDA_VISIBLE_DEVICES"
        )
    if not torch.gpus:
        return ok(f"torch {torch.version}, no GPU")
    findings = [_check_gpu(gpu, torch) for gpu in torch.gpus]
    names = ", ".join(
        f"{gpu.name} ({gpu.memory / GB:.0f} GB, {'bf16' if gpu.capability >= _AMPERE else 'fp16'})"
        for gpu in torch.gpus
    )
    return combine(findings, f"torch {torch.version} for CUDA {torch.cuda}: {names}")


def _check_gpu(gpu: Gpu, torch: TorchBuild) -> Finding:
    major, minor = gpu.capability
    versions = {int(kernel.partition("_")[2]) for kernel in torch.kernels if kernel.partition("_")[2].isdigit()}
    # Kernels run on GPUs with the same major version and an equal or higher minor version.
    if versions and not any(version // 10 == major and version % 10 <= minor for version in versions):
        message = f"{gpu.name} (sm_{major}{minor}): torch {torch.version} has no kernels for it"
        return fail(message, "use another GPU, or a build of torch for this one")
    if gpu.capability < _VOLTA:
        return warn(f"{gpu.name}: no tensor cores, so precision=auto means fp32", "use a newer GPU")
    return ok(gpu.name)
