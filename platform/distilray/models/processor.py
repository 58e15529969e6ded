"""CPU settings of torch processes, and the instruction sets that determine the speed of int8 and bf16."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
# Names in /proc/cpuinfo, x86 and Arm.
_FEATURES = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "avx512_bf16", "amx_bf16", "avx512_fp16"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16"),
)
_FAST_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
# Parameters of glibc's mallopt(3), and a threshold that is never reached.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def configure_cpu(threads: int) -> None:
    """Set the number of torch threads, and keep freed memory in the process.

    Every step allocates the same large tensors. By default, glibc returns them to the kernel and gets new pages, which
    the kernel fills with zeros. This takes a tenth of the CPU time of a distillation step (docs/benchmarks.md). The
    setting has no effect with other C libraries.

    Args:
        threads: threads of one torch operation.
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def cpu_features(cpuinfo: str | None = None) -> list[str]:
    """Return the names of the features that speed up int8 and bf16; none if the kernel does not report them.

    Args:
        cpuinfo: content of `/proc/cpuinfo`; read from this machine by default.
    """
    flags = set(_read_value(cpuinfo, ("flags", "Features")).split())
    return [name for name in _FEATURES if name in flags]


def cpu_name(cpuinfo: str | None = None) -> str:
    """Return the name of the CPU, or "unknown"."""
    return _read_value(cpuinfo, ("model name", "Hardware")) or "unknown"


def format_cpu_features(features: list[str]) -> str:
    return ", ".join(features) or "no instructions for int8 or bf16"


def has_fast_int8(features: list[str]) -> bool:
    """Return True if int8 products are summed in 32 bits. On other x86 CPUs, 16-bit sums can overflow."""
    return bool(_FAST_INT8 & set(features))


def _read_value(cpuinfo: str | None, keys: tuple[str, ...]) -> str:
    """Return the value of the first line with one of the keys, or ""."""
    if cpuinfo is None:
        try:
            cpuinfo = CPUINFO.read_text()
        except OSError:
            return ""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")
