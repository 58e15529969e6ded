"""What CPU and GPUs of this machine compute, and whether the torch that is installed reaches them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from distilray.models.processor import cpu_features, cpu_name, has_fast_int8, told_features
from distilray.operations.doctor.check import Finding, fail, ok, together, warn

_BF16 = frozenset({"amx_bf16", "avx512_bf16"})  # those that `models.precision.cpu_has_bf16` asks for
_DRIVER = re.compile(r"Kernel Module\D*(\d+(?:\.\d+)+)")
_AMPERE = (8, 0)  # the first with bf16
_GB = 1e9


def check_processor(cpuinfo: str, architecture: str) -> Finding:
    """Which arithmetic the service will choose.

    Args:
        cpuinfo: content of /proc/cpuinfo.
        architecture: as `platform.machine()` names it.
    """
    features = cpu_features(cpuinfo)
    dtype = "bf16" if _BF16 & set(features) else "fp32"
    told = f"{cpu_name(cpuinfo)}: {told_features(features)}; dtype auto of the service is {dtype}"
    if architecture == "x86_64" and "avx2" not in features:
        return warn(f"{told}; no AVX2", "take a CPU of the last ten years, or another machine type of the hypervisor")
    if dtype == "fp32" and has_fast_int8(features):
        told += ", int8 of jobs.export_model is faster"
    return ok(told)


@dataclass(frozen=True)
class Device:
    """A GPU: its name, memory in bytes, compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Torch:
    """What torch was built for, and what it sees.

    Attributes:
        version: of torch.
        built_for: version of CUDA, None for a build for CPUs.
        driver: version of NVIDIA's driver on this machine, None where there is none.
        devices: what torch sees.
        kernels: architectures that the build has kernels for, `sm_90` and so on.
    """

    version: str
    built_for: str | None
    driver: str | None
    devices: tuple[Device, ...] = ()
    kernels: tuple[str, ...] = ()

    @classmethod
    def of(cls, proc: Path = Path("/proc")) -> Torch:
        """The torch of this environment, which this imports."""
        import torch

        file = proc / "driver" / "nvidia" / "version"
        driver = _DRIVER.search(file.read_text()) if file.is_file() else None
        properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        devices = tuple(Device(each.name, each.total_memory, (each.major, each.minor)) for each in properties)
        found = driver[1] if driver else None
        return cls(torch.__version__, torch.version.cuda, found, devices, tuple(torch.cuda.get_arch_list()))


def check_devices(torch: Torch) -> Finding:
    """Every GPU of the machine is one that torch can use, and that computes in bf16."""
    if torch.driver and torch.built_for is None:
        told = f"NVIDIA driver {torch.driver}, and torch {torch.version} is a build for CPUs"
        return fail(told, "install the CUDA build of torch of the same version")
    if not torch.devices:
        if torch.driver:
            told = f"NVIDIA driver {torch.driver}, torch {torch.version} for CUDA {torch.built_for} sees no GPU"
            return fail(told, "a newer driver, --gpus all for the container, or CUDA_VISIBLE_DEVICES")
        return ok(f"torch {torch.version}, no GPU")
    findings = [_check_device(device, torch) for device in torch.devices]
    names = ", ".join(f"{device.name} of {device.memory / _GB:.0f} GB" for device in torch.devices)
    return together(findings, f"torch {torch.version} for CUDA {torch.built_for}: {names}, bf16")


def _check_device(device: Device, torch: Torch) -> Finding:
    major, minor = device.capability
    built = {int(kernel.partition("_")[2]) for kernel in torch.kernels if kernel.partition("_")[2].isdigit()}
    # Kernels run on the same major version with an equal or higher minor one.
    if built and not any(number // 10 == major and number % 10 <= minor for number in built):
        told = f"{device.name} (sm_{major}{minor}): torch {torch.version} has no kernels for it"
        return fail(told, "another GPU, or a build of torch for it")
    if device.capability < _AMPERE:
        return warn(f"{device.name}: computes no bf16, so precision auto is fp32", "precision=fp16, or a newer GPU")
    return ok(device.name)
