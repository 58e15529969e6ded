import pytest

from distilray.models import precision
from distilray.operations.doctor.machine.processor import Device, Torch, check_devices, check_processor

H100 = Device("NVIDIA H100", 80 * 10**9, (9, 0))
V100 = Device("Tesla V100", 16 * 10**9, (7, 0))
KERNELS = ("sm_75", "sm_80", "sm_90", "compute_90")


def cpu(flags: str) -> str:
    return f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {flags}\n"


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("avx2 avx512f", "fp32"), ("avx2 avx512_bf16", "bf16"), ("avx2 amx_bf16", "bf16"), ("avx2 avx512_vnni", "fp32")],
)
def test_the_dtype_is_the_one_that_the_service_chooses(flags, dtype, monkeypatch):
    found = check_processor(cpu(flags), "x86_64")
    assert (found.status, f"is {dtype}" in found.found) == ("ok", True)
    monkeypatch.setattr(precision.Path, "read_text", lambda _: cpu(flags))
    assert precision.cpu_has_bf16.__wrapped__() is (dtype == "bf16")


def test_int8_is_named_where_it_is_the_faster_one():
    assert "int8" in check_processor(cpu("avx2 avx512_vnni"), "x86_64").found.partition("auto")[2]


def test_an_x86_cpu_without_avx2_is_a_warning():
    assert check_processor(cpu("sse"), "x86_64").status == "warn"
    assert check_processor("Features\t: fp asimd\n", "aarch64").status == "ok"


def test_no_gpu_is_fine_where_there_is_no_driver():
    assert check_devices(Torch("2.13", None, None)).status == "ok"
    assert check_devices(Torch("2.13", "12.8", None)).status == "ok"


def test_a_driver_and_a_torch_for_cpus_fail():
    found = check_devices(Torch("2.13+cpu", None, "570.1"))
    assert (found.status, "CUDA build" in found.fix) == ("fail", True)


def test_a_driver_and_no_gpu_in_sight_fail():
    assert check_devices(Torch("2.13", "12.8", "450.80")).status == "fail"


def test_gpus_are_told_with_name_and_memory():
    found = check_devices(Torch("2.13", "12.8", "570.1", (H100, H100), KERNELS))
    assert (found.status, found.found.count("NVIDIA H100 of 80 GB")) == ("ok", 2)


def test_a_gpu_without_bf16_is_a_warning():
    found = check_devices(Torch("2.13", "12.8", "570.1", (H100, V100), ("sm_70", *KERNELS)))
    assert (found.status, "Tesla V100" in found.found) == ("warn", True)
    assert "H100" not in found.found


def test_a_gpu_that_torch_has_no_kernels_for_fails():
    assert check_devices(Torch("2.13", "12.8", "570.1", (V100,), KERNELS)).status == "fail"


def test_kernels_of_a_lower_minor_version_run_on_a_gpu():
    ada = Device("NVIDIA L4", 24 * 10**9, (8, 9))
    assert check_devices(Torch("2.13", "12.8", "570.1", (ada,), KERNELS)).status == "ok"


def test_the_driver_is_read_where_the_kernel_tells_it(tmp_path):
    file = tmp_path / "driver/nvidia/version"
    file.parent.mkdir(parents=True)
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 2025\nGCC version: 12\n")
    assert Torch.of(tmp_path).driver == "570.124.06"
    assert Torch.of(tmp_path / "none").driver is None
