"""Instruction sets of the CPU of this machine, on which the speed of int8 and bf16 depends.

How a process that trains, or runs a teacher, uses the CPUs it has.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

# Parameters of glibc's mallopt(3), and a size that nothing reaches.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def configure_cpu(threads: int) -> None:
    """Sets the threads of torch, and lets this process keep the memory that it frees.

    A step asks for the same large tensors as the one before. Left alone, glibc gives them back to the kernel each time
    and takes new pages, which are filled with zeros: a tenth of the CPU time of a distillation step
    (docs/benchmarks.md). Other C libraries are left as they are.

    Args:
        threads: for one operation of torch.
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


CPUINFO = Path("/proc/cpuinfo")
# x86, then Arm, as the kernel names them.
_FEATURES = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "avx512_bf16", "amx_bf16", "avx512_fp16"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16"),
)
_FAST_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})


def cpu_features(cpuinfo: str | None = None) -> list[str]:
    """Names of the features that quantised and bf16 models gain from; none where the kernel does not tell.

    Args:
        cpuinfo: content of `/proc/cpuinfo`; that of this machine when None.
    """
    found = set(_lines(cpuinfo, ("flags", "Features")).split())
    return [name for name in _FEATURES if name in found]


def cpu_name(cpuinfo: str | None = None) -> str:
    """The name of the CPU, or "unknown"."""
    return _lines(cpuinfo, ("model name", "Hardware")) or "unknown"


def format_cpu_features(features: list[str]) -> str:
    """The features for people."""
    return ", ".join(features) or "no feature that int8 or bf16 gains from"


def has_fast_int8(features: list[str]) -> bool:
    """Return True if int8 products are summed in 32 bits; other x86 CPUs overflow at 16 bits unless 7 are used."""
    return bool(_FAST_INT8 & set(features))


def _lines(cpuinfo: str | None, keys: tuple[str, ...]) -> str:
    """The value of the first line that has one of the keys."""
    if cpuinfo is None:
        try:
            cpuinfo = CPUINFO.read_text()
        except OSError:
            return ""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")
