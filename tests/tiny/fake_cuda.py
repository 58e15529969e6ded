"""CUDA device that only exists for fake tensors, so that a step for a GPU can be traced on a machine without one."""

import contextlib
import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# torch needs a device guard to create views and hooks to run the backward pass. Both only have to exist, because fake
# tensors run no kernel.
SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

const c10::Device device(c10::DeviceType::CUDA, 0);
const c10::Stream stream(c10::Stream::DEFAULT, device);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return device; }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};
namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks);
}
"""


def load_fake_cuda() -> None:
    """Register the device in this process, unless torch was built for CUDA. Call it before torch is imported."""
    assert "torch" not in sys.modules
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    if (torch / "lib/libtorch_cuda.so").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fake_cuda.so"
        command = ["g++", "-std=c++20", "-shared", "-fPIC", "-x", "c++", "-", "-o", library, f"-I{torch}/include"]
        command += [f"-L{torch}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch}/lib"]
        subprocess.run(command, input=SOURCE, text=True, check=True)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Create fake tensors; autocast and loss scaling accept the device, and the backward pass runs in this thread."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autograd.set_multithreading_enabled(False),
    ):
        yield
