"""Numeric precision of models and devices, and the arithmetic of torch."""

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch

from distilray.config.base import Precision
from distilray.errors import InputError
from distilray.models.processor import cpu_features

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SERVING_DTYPES = {"auto": torch.float32, "bf16": torch.bfloat16, "fp32": torch.float32}
_AUTO_ORDER: tuple[Precision, ...] = ("bf16", "fp16")  # bf16 has the range of fp32 and needs no loss scaling
_TENSOR_CORES = (7, 0)  # first compute capability with tensor cores, for fp16 only; those for bf16 follow in 8.0


def precision_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype in recipes, such as `bf16`."""
    return next(precision for precision, each in DTYPES.items() if each == dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in torch, `config.json` and HTTP responses, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def serving_dtype(precision: str) -> torch.dtype:
    """Return the dtype in which a model is served.

    Args:
        precision: bf16, fp32, or `auto` for fp32, in which results do not depend on the other texts of a batch.

    Raises:
        InputError: the precision is not supported.
    """
    if precision not in _SERVING_DTYPES:
        raise InputError(f"precision '{precision}': choose one of {', '.join(_SERVING_DTYPES)}")
    return _SERVING_DTYPES[precision]


def fastest_precision(has_units: Callable[[Precision], bool]) -> Precision:
    """Return the precision that `auto` means: bf16 or else fp16 if the device has matrix units for it, otherwise fp32.

    Args:
        has_units: returns whether the device has matrix units for a 16-bit precision.
    """
    return next((precision for precision in _AUTO_ORDER if has_units(precision)), "fp32")


def compute_dtype(precision: str, device: torch.device, *, any_worker: Callable[[bool], bool] = bool) -> torch.dtype:
    """Return the dtype for `precision` of a recipe: auto, bf16, fp16 or fp32.

    Args:
        any_worker: returns whether a flag is set on any worker of a group. Workers with different GPUs then agree on a
            dtype, so that all or none of them scale the loss. All workers must call this function together.
    """
    if precision == "auto":
        precision = fastest_precision(lambda name: not any_worker(not _has_matrix_units(name, device)))
    return DTYPES[precision]


def _has_matrix_units(precision: Precision, device: torch.device) -> bool:
    if device.type != "cuda":
        return precision == "bf16" and cpu_has_bf16()
    if precision == "bf16":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cuda.get_device_capability(device) >= _TENSOR_CORES


def configure_arithmetic(device: torch.device, *, deterministic: bool) -> None:
    """Set how torch computes in this process. Call it before the first matrix product or collective.

    On a GPU, matrix products in fp32 use TF32: the factors are rounded to 11 significant bits, products are added in
    fp32.

    Args:
        deterministic: use only operations whose results are always the same on the same device and software.
    """
    if device.type == "cuda":
        # torch.compile refuses to run after `torch.backends.cuda.matmul.fp32_precision` was set (pytorch issue 166387).
        torch.set_float32_matmul_precision("high")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by torch
        # Sums in the switches of NVLink vary (NCCL issue 1497). torch sets this only for later process groups.
        os.environ.setdefault("NCCL_ALGO", "^NVLS")
        # Filling new tensors with NaN is slow, and only useful for debugging.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch.compile, for seconds
        torch.use_deterministic_algorithms(deterministic)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Return a context that computes matrix products in a dtype; fp32 disables autocast."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@functools.cache
def cpu_has_bf16() -> bool:
    """Return whether the CPU has bf16 matrix instructions (AMX or AVX-512 BF16)."""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpu_features())
