"""The threads in which models run, for all models of a process."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class InferenceThreads:
    """One thread that shares every product out over all cores, for a lone text; and a thread per core, for many.

    Threads that share a product wait for the slowest of them, so whatever else takes a core for a moment holds up all.
    Batches that run beside each other, on one core each, do not: under load they are a quarter faster. OpenMP's threads
    wait without sleeping, until a second thread of the process has a team of them too: then a lone text takes 3 ms
    more. So all that is shared out is done in the one thread, loading the model included.

    Args:
        cpus: cores of the process.
    """

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self._sharing = ThreadPoolExecutor(1, "sharing", initializer=torch.set_num_threads, initargs=(cpus,))
        self._single = ThreadPoolExecutor(cpus, "single", initializer=torch.set_num_threads, initargs=(1,))

    def share(self, work: Callable[[], T]) -> T:
        """Does the work in the thread that has all cores, and waits for it."""
        return self._sharing.submit(work).result()

    async def run(self, work: Callable[[], T], *, alone: bool) -> T:
        """Does the work, with all cores when `alone`, else with one."""
        executor = self._sharing if alone or self.cpus == 1 else self._single
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    def close(self) -> None:
        """Ends the threads after what they are doing."""
        for each in (self._sharing, self._single):
            each.shutdown(wait=False, cancel_futures=True)
