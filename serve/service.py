"""Service without HTTP and Ray: deadline, threads, and batches of concurrent requests over one model."""

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
# A larger request is tokenized and decoded in several steps, so that small requests run in between.
_CHARS_AT_ONCE = 20_000
_BYTES_AT_ONCE = 100_000
# Decoding so little takes less time than the change of threads.
_FEW_BYTES = 10_000

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


class ModelService:
    """Answers requests with one model.

    Tokenization, the model and the decoding of large answers run in threads of their own, so that none of them delays
    the event loop, and health checks, whose tokens are kept, need the model alone.

    Args:
        task: over a loaded model.
        config: limits and sizes.
        report: called after each forward.
        threads: where forwards run, shared by the models of a process; as many as `config.num_cpus` of its own if None.
        clock: seconds.
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
        self.answering = 0
        self._forwards = 0
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
        """Whether the model is warmed up, its queue below the bound, and requests are being answered."""
        return self._warm and not self._batcher.full and not self._stalled

    @property
    def _stalled(self) -> bool:
        """Whether there has been work for longer than the deadline, and none of it was completed."""
        busy = self.answering or self._forwards
        return bool(busy) and self._clock() - self._progress_at > self.config.limits.deadline_s

    async def start(self) -> None:
        """Serves the queue on the running event loop, after a forward of each usual size."""
        self._batcher.start()
        for rows in () if self._warm else _WARM_UP_ROWS:
            await self._probe(rows)
        self._warm = True

    async def close(self) -> None:
        """Stops for good: what still waits is cancelled, and the threads end."""
        await self._batcher.close()
        for executor in (self._tokenization, self._decoding):
            executor.shutdown(wait=False, cancel_futures=True)
        if self._owns_threads:
            self._threads.close()

    async def check_health(self, *, timeout_s: float) -> None:
        """A forward, ahead of the queue.

        Raises:
            TimeoutError: the model did not answer in time.
        """
        async with asyncio.timeout(timeout_s):
            await self._probe(1)

    async def answer(self, queries: Sequence[TextQuery], budget: Budget) -> tuple[list[Any], InferenceResult]:
        """The answer to every query, in order, and the times that they took.

        Raises:
            ApiError: 422 for input beyond the budget or that the task cannot use, 429 when the queue is full, 504 when
                the deadline passed.
        """
        budget.check_queries(queries, self.config.limits)
        deadline_s = self.config.limits.deadline_s
        self._begin()
        self.answering += 1
        try:
            async with asyncio.timeout(deadline_s):
                encoded = await self._encode(queries)
                sizes = [self.task.response_bytes(query) for query in encoded]
                budget.check_encoded(encoded, self.config.limits, response_bytes=sum(sizes))
                served = await self._batcher.submit(encoded)
                answers = await self._decode(encoded, served.predictions, sizes)
            self._progress_at = self._clock()
            return answers, served
        except TimeoutError:
            raise ApiError(504, f"no answer within {deadline_s:g} s; try again, with fewer texts") from None
        finally:
            self.answering -= 1

    def info(self) -> dict[str, object]:
        """Properties of the model, and the limits."""
        return {**self.task.info(), "limits": self.config.limits.model_dump()}

    async def _encode(self, queries: Sequence[TextQuery]) -> list[EncodedText]:
        loop, encoded = asyncio.get_running_loop(), list[EncodedText]()
        for part in _parts([len(query.text) for query in queries], _CHARS_AT_ONCE):
            try:
                encoded += await loop.run_in_executor(self._tokenization, self.task.encode, queries[part])
            except InputTextError as error:
                self._progress_at = self._clock()  # a refusal of bad input is an answer too
                raise text_error(error.offset_by(part.start)) from None
        return encoded

    async def _decode(
        self, encoded: Sequence[EncodedText], predictions: Sequence[Any], sizes: Sequence[int]
    ) -> list[Any]:
        def decode(part: slice) -> list[Any]:
            return list(map(self.task.decode, encoded[part], predictions[part]))

        if sum(sizes) <= _FEW_BYTES:
            return decode(slice(None))
        loop, answers = asyncio.get_running_loop(), list[Any]()
        for part in _parts(sizes, _BYTES_AT_ONCE):
            answers += await loop.run_in_executor(self._decoding, decode, part)
        return answers

    async def _forward(self, encoded: Sequence[EncodedText], alone: bool = True) -> list[Any]:
        self._begin()
        self._forwards += 1
        try:
            predictions = await self._threads.run(lambda: self.task.run(encoded), alone=alone)
            self._progress_at = self._clock()
            return predictions
        finally:
            self._forwards -= 1

    def _begin(self) -> None:
        """Note the start of work; time without work does not count as time without progress."""
        if not self.answering and not self._forwards:
            self._progress_at = self._clock()

    async def _probe(self, rows: int) -> None:
        await self._forward([self._probe_query] * rows)


def _parts(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Consecutive parts of a request, each with one entry or at most a total size."""
    first = total = 0
    for index, size in enumerate(sizes):
        if index > first and total + size > most:
            yield slice(first, index)
            first, total = index, 0
        total += size
    yield slice(first, len(sizes))
