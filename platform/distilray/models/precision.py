"""The dtype in which a device computes."""

import functools
from pathlib import Path

import torch


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it faster than in fp32, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that a recipe's `precision` means: auto, bf16, fp16 or fp32."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return preferred_dtype(device) if precision == "auto" else named[precision]


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself (AMX or AVX-512 BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
