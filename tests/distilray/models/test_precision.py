import os
from types import SimpleNamespace

import pytest
import torch

from distilray.models import precision as module
from distilray.models.flops import peak_flops
from distilray.models.precision import (
    DTYPES,
    autocast,
    compute_dtype,
    configure_arithmetic,
    cpu_has_bf16,
    fastest_precision,
    precision_of,
)
from tests.distilray.training.threaded_workers import run_together

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def restored(monkeypatch):
    """Restore the settings of torch after the test."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    torch.set_float32_matmul_precision("highest")
    configure_arithmetic(CPU, deterministic=False)


# Compute capabilities from NVIDIA's table (developer.nvidia.com/cuda-gpus). The first with tensor cores is 7.0, and the
# first whose tensor cores compute in bf16 is 8.0.
@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [
        ("Tesla P100-PCIE-16GB", (6, 0), "fp32"),
        ("Tesla V100-SXM2-16GB", (7, 0), "fp16"),
        ("Tesla T4", (7, 5), "fp16"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), "bf16"),
        ("NVIDIA A10G", (8, 6), "bf16"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "bf16"),
        ("NVIDIA H200", (9, 0), "bf16"),
        ("NVIDIA B200", (10, 0), "bf16"),
        ("NVIDIA GeForce RTX 5090", (12, 0), "bf16"),
    ],
)
def test_auto_is_the_fastest_precision_for_which_a_gpu_has_matrix_units(monkeypatch, name, capability, precision):
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    answers = {"is_available": True, "current_device": 0, "get_device_properties": properties}
    for function, answer in {**answers, "get_device_capability": capability}.items():
        monkeypatch.setattr(torch.cuda, function, lambda *_, answer=answer: answer)
    assert compute_dtype("auto", CUDA) == DTYPES[precision]
    # jobs.plan, which only has the name of a GPU, must make the same choice.
    assert fastest_precision(lambda one: peak_flops(name, one) is not None) == precision


def test_auto_is_bf16_on_a_cpu_that_computes_in_it():
    assert compute_dtype("auto", CPU) == (torch.bfloat16 if cpu_has_bf16() else torch.float32)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_matrix_products_have_the_precision_of_the_recipe(precision, dtype):
    assert compute_dtype(precision, CPU) == dtype
    assert precision_of(dtype) == precision
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("has_bf16", "dtype"), [((True, True), torch.bfloat16), ((True, False), torch.float32)], ids=["equal", "different"]
)
def test_workers_on_different_devices_compute_in_the_same_precision(monkeypatch, has_bf16, dtype):
    answers = iter(has_bf16)
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: next(answers))
    dtypes = run_together(2, lambda workers: compute_dtype("auto", CPU, any_worker=workers.any))
    assert dtypes == [dtype, dtype]


def test_fp32_products_use_tf32_on_a_gpu_only(restored):
    configure_arithmetic(CPU, deterministic=False)
    assert torch.get_float32_matmul_precision() == "highest"
    configure_arithmetic(CUDA, deterministic=False)
    # torch.compile reads this function, which fails if TF32 was enabled by the other API of torch.
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_deterministic_algorithms_follow_the_recipe(restored):
    configure_arithmetic(CPU, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # attention would not be deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")  # the two values in NVIDIA's documentation
    assert os.environ["NCCL_ALGO"] == "^NVLS"  # as torch sets it for process groups that are created in this mode
    configure_arithmetic(CPU, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
