"""Numeric precision of models and devices."""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from distilray.errors import InputError

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SERVED = ("fp32", "bf16")


def precision_of(dtype: torch.dtype) -> str:
    """Return the precision that recipes name for a dtype."""
    return next(precision for precision, each in DTYPES.items() if each == dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in torch, `config.json` and the answers of the service, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def serving_dtype(name: str) -> torch.dtype:
    """Return the dtype in which a model is served, by its name in torch.

    Args:
        name: `auto` is fp32, whose answers do not depend on the other texts of a batch.

    Raises:
        InputError: another name.
    """
    dtypes = {"auto": torch.float32} | {dtype_name(DTYPES[precision]): DTYPES[precision] for precision in _SERVED}
    if name not in dtypes:
        raise InputError(f"dtype '{name}': choose one of {', '.join(dtypes)}")
    return dtypes[name]


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it faster than in fp32, else fp32."""
    has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()
    return torch.bfloat16 if has_bf16 else torch.float32


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a recipe's `precision`: auto, bf16, fp16 or fp32."""
    return preferred_dtype(device) if precision == "auto" else DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Compute matrix products in a dtype; fp32 leaves everything as it is."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself (AMX or AVX-512 BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
