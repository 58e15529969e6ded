"""The workers that share one fine-tuning, and what they do together."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from distilray.distillation.accumulation import summing_gradients


class Workers:
    """One of the workers, and its calls that all of them must make in the same order.

    Attributes:
        rank: number of this worker, from 0.
        size: how many there are.

    Args:
        device: where the backend of the process group adds up.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self._device = rank, size, device

    @classmethod
    def single(cls) -> "Workers":
        """One worker, which needs no process group."""
        return cls(0, 1, torch.device("cpu"))

    @classmethod
    def of_process_group(cls) -> "Workers":
        """The workers of torch's process group; a single one where none is open."""
        if not distributed.is_initialized():
            return cls.single()
        on_gpu = distributed.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    def summed(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum of the arrays of all workers, which have one shape and type."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values).to(self._device, copy=True)
        distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def any(self, flag: bool) -> bool:
        """Whether the flag of any worker is set."""
        return bool(self.summed(np.array([int(flag)]))[0])

    def told(self, text: str) -> str:
        """The text of the first worker; those of the others are not looked at."""
        if self.size == 1:
            return text
        data = np.frombuffer(text.encode(), np.uint8).astype(np.int64) if self.rank == 0 else np.zeros(0, np.int64)
        length = int(self.summed(np.array([len(data)]))[0])
        return bytes(self.summed(np.resize(data, length)).astype(np.uint8)).decode()

    def averaging(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with gradients that are the mean over all workers."""
        return module if self.size == 1 else summing_gradients(module, device)
