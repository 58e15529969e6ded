"""How a process that trains, or runs a teacher, uses the CPUs it has."""

import ctypes

import torch

# Parameters of glibc's mallopt(3), and a size that nothing reaches.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def use_cpus(threads: int) -> None:
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
