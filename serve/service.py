"""Model service, independent of HTTP and Ray: deadlines, threads, and batching of concurrent requests."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.encoding import InputTextError
from distilray.inference.tasks.base import AnyTask, EncodedText, TextQuery
from serve.batcher import InferenceResult, MicroBatcher, Report
from serve.budget import Budget
from serve.errors import ApiError, text_error

_WARM_UP_ROWS = (1, 8, 32)
# Larger requests are tokenized and decoded in several steps, to let small requests run in between.
_CHARS_PER_STEP = 20_000
_BYTES_PER_STEP = 100_000
# Decoding a smaller response takes less time than a thread switch.
_SMALL_RESPONSE_BYTES = 10_000

T = TypeVar("T")


class InferenceThreads:
    """One thread that parallelizes each operation over all cores, and one single-core thread per core.

    The first is for a single batch. Under load, concurrent batches on one core each are a quarter faster, because
    threads that share an operation must wait for the slowest of them. All multi-core work, model loading included, has
    to use the same thread: once a second thread of the process has an OpenMP team, idle OpenMP threads sleep instead of
    spinning, which adds 3 ms to the latency of a single text.

    Args:
        cpus: cores of the process.
    """

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self._multi_core = ThreadPoolExecutor(1, "multi-core", initializer=torch.set_num_threads, initargs=(cpus,))
        self._single_core = ThreadPoolExecutor(cpus, "single-core", initializer=torch.set_num_threads, initargs=(1,))

    def run_blocking(self, work: Callable[[], T]) -> T:
        """Run a function in the multi-core thread and wait for its result."""
        return self._multi_core.submit(work).result()

    async def run(self, work: Callable[[], T], *, alone: bool) -> T:
        """Run a function on all cores if `alone`, else on one."""
        executor = self._multi_core if alone or self.cpus == 1 else self._single_core
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    def close(self) -> None:
        """Stop the threads after their current work."""
        for executor in (self._multi_core, self._single_core):
            executor.shutdown(wait=False, cancel_futures=True)


class ModelService:
    """Inference service for one model.

    Tokenization, inference and the decoding of large responses run in threads, to keep the event loop free. The tokens
    of health checks are computed in advance, so the checks only depend on the model.

    Args:
        task: task with a loaded model.
        config: limits and sizes.
        report: called after each forward pass.
        threads: inference threads shared by all models of the process; None creates `config.num_cpus` of them.
        clock: returns seconds.
    """

    def __init__(
        self,
        task: AnyTask,
        config: FillMaskAppConfig,
        *,
        report: Report | None = None,
        threads: InferenceThreads | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task, self.config = task, config
        self.active_requests = 0
        self._active_forwards = 0
        self._clock, self._progress_at = clock, clock()
        self._tokenization = ThreadPoolExecutor(1, "tokenization")
        self._decoding = ThreadPoolExecutor(1, "decoding")
        (self._probe_query,) = task.encode([task.probe])
        self._threads = threads or InferenceThreads(config.num_cpus)
        self._owns_threads = threads is None
        self._batcher = MicroBatcher(
            self._forward,
            max_rows=config.max_batch_rows,
            max_tokens=config.max_batch_tokens,
            max_queued_tokens=config.limits.max_queued_tokens,
            lanes=self._threads.cpus,
            report=report,
        )
        self._warm = False

    @property
    def ready(self) -> bool:
        """True if the model is warmed up, its queue is not full, and requests make progress."""
        return self._warm and not self._batcher.is_full and not self._stalled

    @property
    def _stalled(self) -> bool:
        """True if the service has been busy for longer than the deadline without completing anything."""
        busy = self.active_requests or self._active_forwards
        return bool(busy) and self._clock() - self._progress_at > self.config.limits.deadline_s

    async def start(self) -> None:
        """Warm up the model with typical batch sizes and start processing requests on the running event loop."""
        self._batcher.start()
        for rows in () if self._warm else _WARM_UP_ROWS:
            await self._probe(rows)
        self._warm = True

    async def close(self) -> None:
        """Stop permanently: cancel waiting requests and stop the threads."""
        await self._batcher.close()
        for executor in (self._tokenization, self._decoding):
            executor.shutdown(wait=False, cancel_futures=True)
        if self._owns_threads:
            self._threads.close()

    async def check_health(self, *, timeout_s: float) -> None:
        """Run one forward pass, ahead of the queue.

        Raises:
            TimeoutError: the model did not finish in time.
        """
        async with asyncio.timeout(timeout_s):
            await self._probe(1)

    async def answer(self, queries: Sequence[TextQuery], budget: Budget) -> tuple[list[Any], InferenceResult]:
        """Return an answer for each query, and the inference result with its timings.

        Raises:
            ApiError: 422 if the input exceeds the budget or is invalid for the task, 429 if the queue is full, 504 if
                the deadline has passed.
        """
        budget.check_queries(queries, self.config.limits)
        deadline_s = self.config.limits.deadline_s
        self._mark_start()
        self.active_requests += 1
        try:
            async with asyncio.timeout(deadline_s):
                encoded = await self._encode(queries)
                sizes = [self.task.response_bytes(query) for query in encoded]
                budget.check_encoded(encoded, self.config.limits, response_bytes=sum(sizes))
                result = await self._batcher.submit(encoded)
                answers = await self._decode(encoded, result.predictions, sizes)
            self._progress_at = self._clock()
            return answers, result
        except TimeoutError:
            raise ApiError(504, f"no answer within {deadline_s:g} s; try again with fewer texts") from None
        finally:
            self.active_requests -= 1

    def info(self) -> dict[str, object]:
        """Describe the model and its limits."""
        return {**self.task.info(), "limits": self.config.limits.model_dump()}

    async def _encode(self, queries: Sequence[TextQuery]) -> list[EncodedText]:
        loop, encoded = asyncio.get_running_loop(), list[EncodedText]()
        for step in _steps([len(query.text) for query in queries], _CHARS_PER_STEP):
            try:
                encoded += await loop.run_in_executor(self._tokenization, self.task.encode, queries[step])
            except InputTextError as error:
                self._progress_at = self._clock()  # rejecting invalid input is progress, too
                raise text_error(error.offset_by(step.start)) from None
        return encoded

    async def _decode(
        self, encoded: Sequence[EncodedText], predictions: Sequence[Any], sizes: Sequence[int]
    ) -> list[Any]:
        def decode(step: slice) -> list[Any]:
            return list(map(self.task.decode, encoded[step], predictions[step]))

        if sum(sizes) <= _SMALL_RESPONSE_BYTES:
            return decode(slice(None))
        loop, answers = asyncio.get_running_loop(), list[Any]()
        for step in _steps(sizes, _BYTES_PER_STEP):
            answers += await loop.run_in_executor(self._decoding, decode, step)
        return answers

    async def _forward(self, encoded: Sequence[EncodedText], alone: bool = True) -> list[Any]:
        self._mark_start()
        self._active_forwards += 1
        try:
            predictions = await self._threads.run(lambda: self.task.run(encoded), alone=alone)
            self._progress_at = self._clock()
            return predictions
        finally:
            self._active_forwards -= 1

    def _mark_start(self) -> None:
        """Restart the progress timer if the service was idle; idle time is not a stall."""
        if not self.active_requests and not self._active_forwards:
            self._progress_at = self._clock()

    async def _probe(self, rows: int) -> None:
        await self._forward([self._probe_query] * rows)


def _steps(sizes: Sequence[int], max_size: int) -> Iterator[slice]:
    """Split entries into consecutive slices of at most `max_size` in total, or of one larger entry."""
    first = total = 0
    for index, size in enumerate(sizes):
        if index > first and total + size > max_size:
            yield slice(first, index)
            first, total = index, 0
        total += size
    yield slice(first, len(sizes))
