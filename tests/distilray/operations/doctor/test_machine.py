import os
from pathlib import Path

import pytest

from distilray.operations.doctor.machine import Disk, Memory, TorchBuild, cpu_quota, object_store_bytes

GB = 10**9
MACHINE = Memory(16_000_000 << 10, 8_000_000 << 10)


def test_the_disk_of_a_missing_folder_is_that_of_its_parent(tmp_path):
    disk, stats = Disk.of(tmp_path / "a/b"), os.statvfs(tmp_path)
    assert (disk.folder, disk.total) == (tmp_path, stats.f_blocks * stats.f_frsize)
    assert 0 < disk.free <= disk.total


@pytest.mark.parametrize(
    ("setting", "memory", "size"),
    [(100, 10 * GB, 100 << 20), (0, 10 * GB, 0), (None, 10 * GB, 3 * GB), (None, 4000 * GB, 200 * GB)],
)
def test_the_size_of_the_object_store_is_set_by_the_recipe_or_by_ray(setting, memory, size):
    assert object_store_bytes(setting, memory) == size


def write_machine(root: Path, cgroup: dict[str, str]) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\nHugePages_Total:       0\n"
    )
    for name, text in cgroup.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "memory"),
    [
        ({}, MACHINE),
        ({"memory.max": "max\n"}, MACHINE),
        ({"memory.max": str(1 << 63)}, MACHINE),
        ({"memory.max": f"{4 * GB}\n", "memory.current": f"{GB}\n"}, Memory(4 * GB, 3 * GB)),
        ({"memory.max": f"{4 * GB}", "memory.current": f"{5 * GB}"}, Memory(4 * GB, 0)),
        ({"memory.max": f"{12 * GB}"}, Memory(12 * GB, MACHINE.free)),
        (
            {"memory/memory.limit_in_bytes": f"{4 * GB}", "memory/memory.usage_in_bytes": f"{GB}"},
            Memory(4 * GB, 3 * GB),
        ),
    ],
    ids=["none", "no limit", "huge limit", "limit", "exceeded", "more than the machine has free", "cgroup v1"],
)
def test_the_memory_is_limited_by_the_machine_and_the_container(tmp_path, cgroup, memory):
    assert Memory.of(write_machine(tmp_path, cgroup)) == memory


@pytest.mark.parametrize(
    ("cgroup", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "x"}, None),
        ({}, None),
    ],
)
def test_the_cpu_quota_of_a_container_is_read(tmp_path, cgroup, quota):
    assert cpu_quota(write_machine(tmp_path, cgroup)) == quota


def test_the_version_of_the_driver_is_read_from_proc(tmp_path):
    file = tmp_path / "driver/nvidia/version"
    file.parent.mkdir(parents=True)
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 2025\nGCC version: 12\n")
    assert TorchBuild.of(tmp_path).driver == "570.124.06"
    assert TorchBuild.of(tmp_path / "none").driver is None
