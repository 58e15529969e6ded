from pathlib import Path

import pytest

from distilray.operations.doctor.machine import (
    Disk,
    Gpu,
    Memory,
    TorchBuild,
    check_disk,
    check_gpus,
    check_local_ray,
    check_memory,
    check_shared_memory,
    cpu_quota,
    object_store_bytes,
)

GB = 10**9


def disk(free: float, total: float = 1000) -> Disk:
    return Disk(Path("/data"), int(total * GB), int(free * GB))


@pytest.mark.parametrize(("free", "status"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_little_free_disk_space_is_reported(free, status):
    assert check_disk(disk(free)).status == status


def test_less_disk_space_than_a_run_needs_fails():
    assert check_disk(disk(50), needed=60 * GB).status == "fail"
    assert check_disk(disk(70), needed=60 * GB).status == "ok"
    assert "about 60.0 GB needed" in check_disk(disk(70), needed=60 * GB).message


def test_a_tiny_file_system_fails_with_its_free_space_in_mb():
    finding = check_disk(Disk(Path("/small"), 614_400, 500_000))
    assert (finding.status, finding.message) == ("fail", "/small: 0.5 MB of 0.6 MB free")


def test_a_file_system_without_free_inodes_fails():
    assert check_disk(Disk(Path("/data"), 1000 * GB, 900 * GB, free_inodes=10)).status == "fail"
    assert check_disk(Disk(Path("/data"), 1000 * GB, 900 * GB, free_inodes=10**6)).status == "ok"


def test_a_disk_so_full_that_ray_spills_nothing_to_it_fails():
    assert check_disk(disk(40), spills=True).status == "fail"
    assert check_disk(disk(40)).status == "ok"
    assert check_disk(disk(60), spills=True).status == "ok"


def test_the_disk_of_a_missing_folder_is_that_of_its_parent(tmp_path):
    assert Disk.of(tmp_path / "a/b").folder == tmp_path


@pytest.mark.parametrize(
    ("total", "needed", "status"),
    [(0, GB, "fail"), (64 << 20, 80 << 20, "fail"), (2 * GB, 4 * GB, "warn"), (8 * GB, 4 * GB, "ok")],
)
def test_the_object_store_must_fit_into_shared_memory(total, needed, status):
    finding = check_shared_memory(total, needed)
    assert finding.status == status
    assert ("--shm-size=" in finding.fix) == (status != "ok")


def test_the_size_of_the_object_store_is_set_by_the_recipe_or_by_ray():
    assert object_store_bytes(100, 10 * GB) == 100 << 20
    assert object_store_bytes(None, 10 * GB) == 3 * GB
    assert object_store_bytes(None, 4000 * GB) == 200 * GB


def write_machine(root: Path, free_kb: int = 8_000_000, **cgroup: str) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    {free_kb} kB\nHugePages_Total:       0\n"
    )
    for name, text in cgroup.items():
        file = root / "sys/fs/cgroup" / name.replace("_", ".", 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_the_memory_is_that_of_the_machine(tmp_path):
    assert Memory.of(write_machine(tmp_path)) == Memory(16_000_000 << 10, 8_000_000 << 10)


def test_the_memory_of_a_container_is_its_limit(tmp_path):
    root = write_machine(tmp_path, memory_max=f"{4 * GB}\n", memory_current=f"{GB}\n")
    assert Memory.of(root) == Memory(4 * GB, 3 * GB)


@pytest.mark.parametrize("limit", ["max\n", str(1 << 63)])
def test_a_container_without_a_limit_has_the_memory_of_the_machine(tmp_path, limit):
    assert Memory.of(write_machine(tmp_path, memory_max=limit)).total == 16_000_000 << 10


@pytest.mark.parametrize(("free", "status"), [(2, "fail"), (5, "warn"), (12, "ok")])
def test_little_free_memory_is_reported(free, status):
    assert check_memory(Memory(16 * GB, free * GB)).status == status


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", None), ("200000 100000\n", 2.0), ("50000 100000", 0.5), ("x", None)]
)
def test_the_quota_of_a_container_is_read(tmp_path, text, quota):
    assert cpu_quota(write_machine(tmp_path, cpu_max=text)) == quota


def test_without_a_cgroup_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("num_cpus", "cores", "quota", "words"),
    [(None, 8, None, "8 CPUs"), (2, 8, None, "2 CPUs"), (1, 8, None, "1 CPU"), (2, 64, 2.0, "2 CPUs")],
)
def test_a_local_ray_has_the_cpus_of_the_recipe_or_all(num_cpus, cores, quota, words):
    finding = check_local_ray(num_cpus, cores, quota)
    assert (finding.status, finding.message) == ("ok", f"no cluster: a job would start a local Ray with {words}")


def test_more_cpus_than_the_container_may_use_are_a_warning():
    finding = check_local_ray(None, 64, 2.0)
    assert (finding.status, finding.fix) == ("warn", "ray.num_cpus=2")


H100 = Gpu("NVIDIA H100", 80 * 10**9, (9, 0))
V100 = Gpu("Tesla V100", 16 * 10**9, (7, 0))
KERNELS = ("sm_75", "sm_80", "sm_90", "compute_90")


def test_no_gpu_is_fine_where_there_is_no_driver():
    assert check_gpus(TorchBuild("2.13", None, None)).status == "ok"
    assert check_gpus(TorchBuild("2.13", "12.8", None)).status == "ok"


def test_a_driver_with_a_cpu_build_of_torch_fails():
    finding = check_gpus(TorchBuild("2.13+cpu", None, "570.1"))
    assert (finding.status, "CUDA build" in finding.fix) == ("fail", True)


def test_a_driver_without_a_visible_gpu_fails():
    assert check_gpus(TorchBuild("2.13", "12.8", "450.80")).status == "fail"


def test_gpus_are_listed_with_name_and_memory():
    finding = check_gpus(TorchBuild("2.13", "12.8", "570.1", (H100, H100), KERNELS))
    assert (finding.status, finding.message.count("NVIDIA H100 (80 GB)")) == ("ok", 2)


def test_a_gpu_without_bf16_is_a_warning():
    finding = check_gpus(TorchBuild("2.13", "12.8", "570.1", (H100, V100), ("sm_70", *KERNELS)))
    assert (finding.status, "Tesla V100" in finding.message) == ("warn", True)
    assert "H100" not in finding.message


def test_a_gpu_that_torch_has_no_kernels_for_fails():
    assert check_gpus(TorchBuild("2.13", "12.8", "570.1", (V100,), KERNELS)).status == "fail"


def test_kernels_of_a_lower_minor_version_run_on_a_gpu():
    ada = Gpu("NVIDIA L4", 24 * 10**9, (8, 9))
    assert check_gpus(TorchBuild("2.13", "12.8", "570.1", (ada,), KERNELS)).status == "ok"


def test_the_version_of_the_driver_is_read_from_proc(tmp_path):
    file = tmp_path / "driver/nvidia/version"
    file.parent.mkdir(parents=True)
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 2025\nGCC version: 12\n")
    assert TorchBuild.of(tmp_path).driver == "570.124.06"
    assert TorchBuild.of(tmp_path / "none").driver is None
