"""Collective operations of the workers of a training run, for a torch process group or a single process."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distilray.runtime.seeding import hash_integers


class Workers:
    """Group of workers, as seen by one of them. All workers must call its operations in the same order.

    Attributes:
        rank: number of this worker, from 0.
        size: number of workers.

    Args:
        device: device on which the process group reduces tensors.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self._device = rank, size, device

    @classmethod
    def single(cls) -> "Workers":
        """Return a single worker, which needs no process group."""
        return cls(0, 1, torch.device("cpu"))

    @classmethod
    def from_process_group(cls) -> "Workers":
        """Return this worker of torch's process group, or a single worker if none is initialized."""
        if not distributed.is_initialized():
            return cls.single()
        on_gpu = distributed.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of the arrays of all workers, which have the same shape and dtype."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values).to(self._device, copy=True)
        distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def sum_numbers(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each number over all workers."""
        numbers: list[float] = self.sum(np.array(values, dtype=np.float64)).tolist()
        return numbers

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any worker is set."""
        return bool(self.sum(np.array([int(flag)]))[0])

    def broadcast(self, text: str) -> str:
        """Return the text of the first worker; the arguments of the others are ignored."""
        if self.size == 1:
            return text
        data = np.frombuffer(text.encode(), np.uint8).astype(np.int64) if self.rank == 0 else np.zeros(0, np.int64)
        length = int(self.sum(np.array([len(data)]))[0])
        return bytes(self.sum(np.resize(data, length)).astype(np.uint8)).decode()

    def seed_torch(self, seed: int, *numbers: int) -> None:
        """Seed torch from a seed, numbers such as the step, and the rank, so that a resumed run repeats its dropout."""
        torch.manual_seed(int(hash_integers(seed, *numbers, self.rank) >> np.uint64(1)))

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a module in DDP, which averages its gradients over all workers. Buffers must be constant.

        Two options make a resumed run bit-identical to an uninterrupted one. Without `find_unused_parameters`, DDP
        rebuilds its buckets after the first step, and the rounding of a sum of three or more gradients depends on their
        position in the bucket; the option costs about a millisecond per step. Without a hook, DDP multiplies gradients
        by 1 / size while it copies them into a bucket in the first step, and divides those that are already there.
        """
        if self.size == 1:
            return module
        devices = [device] if device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            module, devices, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
        )
        wrapped.register_comm_hook(None, allreduce_hook)
        return wrapped

    def gradient_sync(self, module: nn.Module, *, enabled: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context that enables or disables gradient averaging in the backward passes of a wrapped module."""
        if enabled or not isinstance(module, DistributedDataParallel):
            return contextlib.nullcontext()
        no_sync: contextlib.AbstractContextManager[None] = module.no_sync()
        return no_sync
