"""Numeric precision of models and devices."""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from distilray.errors import InputError

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SERVING_PRECISIONS = ("fp32", "bf16")


def precision_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype in recipes, such as `bf16`."""
    return next(precision for precision, each in DTYPES.items() if each == dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in torch, `config.json` and HTTP responses, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def serving_dtype(name: str) -> torch.dtype:
    """Return the dtype in which a model is served.

    Args:
        name: torch name of the dtype, or `auto` for fp32, in which results do not depend on the other texts of a batch.

    Raises:
        InputError: the dtype is not supported.
    """
    dtypes = {"auto": torch.float32} | {
        dtype_name(DTYPES[precision]): DTYPES[precision] for precision in _SERVING_PRECISIONS
    }
    if name not in dtypes:
        raise InputError(f"dtype '{name}': choose one of {', '.join(dtypes)}")
    return dtypes[name]


def preferred_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 if the device is faster in it than in fp32, else fp32."""
    has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()
    return torch.bfloat16 if has_bf16 else torch.float32


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype for `precision` of a recipe: auto, bf16, fp16 or fp32."""
    return preferred_dtype(device) if precision == "auto" else DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Return a context that computes matrix products in a dtype; fp32 disables autocast."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@functools.cache
def cpu_has_bf16() -> bool:
    """Return whether the CPU has bf16 matrix instructions (AMX or AVX-512 BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
