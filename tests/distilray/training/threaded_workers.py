"""Workers that are threads of this process, a fast substitute for a process group."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from distilray.training.process_group import Workers

_TIMEOUT_S = 20.0  # a worker that makes fewer calls than another must not hang the test


class ThreadedWorkers(Workers):
    """One of `size` threads that exchange values through a shared list."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, values: list[Any]) -> None:
        super().__init__(rank, size, torch.device("cpu"))
        self._barrier, self._values = barrier, values

    def sum(self, values):
        return sum(self._all(values.copy()))

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self._average)
        return module

    def _average(self, parameter):
        parameter.grad = sum(self._all(parameter.grad)) / self.size

    def _all(self, value):
        self._values[self.rank] = value
        self._barrier.wait(_TIMEOUT_S)
        found = list(self._values)
        self._barrier.wait(_TIMEOUT_S)
        return found


def run_together(size: int, work: Callable[[Workers], Any]) -> list[Any]:
    """Return the results of all workers, or raise the first error."""
    barrier, values, errors = threading.Barrier(size), [None] * size, []

    def one(rank):
        try:
            return work(ThreadedWorkers(rank, size, barrier, values))
        except BaseException as error:
            errors.append(error)
            barrier.abort()  # the others would wait for this one
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
