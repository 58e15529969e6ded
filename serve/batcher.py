"""Micro-batching: requests that arrive while the model is busy share its next forward pass."""

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distilray.inference.tasks.base import EncodedText
from serve.errors import overloaded

Run = Callable[[Sequence[EncodedText], bool], Awaitable[list[Any]]]
Report = Callable[["BatchReport"], None]
# Weight of the latest batch in the moving average of tokens/s.
_LATEST_WEIGHT = 0.2
# Up to this many texts, one batch on all cores is faster than one batch per core.
_SMALL_ROWS = 4
# Clients whose responses came from one batch send their next requests at about the same time: wait for all of them.
_GATHER_S = 0.004
# A request that takes longer is large: it runs in slices of about this time, interleaved with small requests.
_SLICE_S = 0.25
# Smaller slices would make matrix products inefficient.
_MIN_SLICE_TOKENS = 256
# Size of a batch of small requests, in slices; larger batches are hardly more efficient.
_SLICES_PER_BATCH = 4


@dataclass(frozen=True)
class InferenceResult:
    """Predictions for a request.

    Attributes:
        predictions: one per query, in order.
        tokens: tokens of the request.
        queue_s: time in the queue before the first batch, in seconds.
        inference_s: total time of the batches, in seconds.
    """

    predictions: list[Any]
    tokens: int
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class BatchReport:
    """Metrics of one forward pass.

    Attributes:
        rows, tokens: texts and their tokens, without padding.
        queue_s: waiting time of each request whose first query is in this batch, in seconds.
        inference_s: duration of the forward pass, in seconds.
        queued_tokens: tokens that were waiting when the forward pass started.
    """

    rows: int
    tokens: int
    queue_s: Sequence[float]
    inference_s: float
    queued_tokens: int


@dataclass
class _Request:
    """Queued request: `started` of its queries are in batches, `finished` have predictions."""

    queries: Sequence[EncodedText]
    arrived_at: float
    result: asyncio.Future[InferenceResult]
    started: int = 0
    finished: int = 0
    queue_s: float = 0.0
    inference_s: float = 0.0

    def __post_init__(self) -> None:
        self.predictions: list[Any] = [[] for _ in self.queries]
        self.waiting_tokens = self.tokens = _tokens(self.queries)

    @property
    def waiting_rows(self) -> int:
        return len(self.queries) - self.started


@dataclass(frozen=True)
class _Slice:
    """Consecutive queries of a request that run in the same batch."""

    request: _Request
    first: int
    queries: Sequence[EncodedText]


class MicroBatcher:
    """Queue in front of the model, bounded by tokens.

    A single request runs immediately on all cores. Under load, each batch contains the requests that arrived while the
    previous ones were running, and up to `lanes` batches run concurrently. A request that would keep the model busy for
    a long time is split into slices, which alternate with batches of small requests. Large requests run one after the
    other, so the first ones still meet their deadline under overload. After a request is cancelled, its remaining
    queries do not run.

    Args:
        run: computes the predictions of a batch; its second argument is True if no other batch is running.
        max_rows, max_tokens: limits of a batch; larger requests are split, and a longer text forms its own batch.
        max_queued_tokens: queue length above which requests are rejected.
        lanes: number of concurrent batches.
        report: called after each batch.
        clock: returns seconds.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_rows: int,
        max_tokens: int,
        max_queued_tokens: int,
        lanes: int = 1,
        report: Report | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run, self._report, self._clock = run, report, clock
        self._max_rows, self._max_tokens, self._max_queued_tokens = max_rows, max_tokens, max_queued_tokens
        self._lanes, self._running, self._runs_alone = lanes, set[asyncio.Task[None]](), False
        self._queue: deque[_Request] = deque()
        self._large_is_next = False
        self._wakeup = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._tokens_per_s = 0.0

    @property
    def queued_tokens(self) -> int:
        """Tokens waiting for the model."""
        return sum(request.waiting_tokens for request in self._queue if not request.result.done())

    @property
    def is_full(self) -> bool:
        """True if the queue has reached its limit."""
        return self.queued_tokens >= self._max_queued_tokens

    def start(self) -> None:
        """Start processing the queue on the running event loop; further calls have no effect."""
        if self._loop_task is None:
            self._loop_task = asyncio.get_running_loop().create_task(self._process_queue())

    async def close(self) -> None:
        """Stop processing and cancel all waiting requests."""
        tasks = [*self._running, *([self._loop_task] if self._loop_task else [])]
        self._loop_task = None
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for request in self._queue:
            request.result.cancel()
        self._queue.clear()

    async def submit(self, queries: Sequence[EncodedText]) -> InferenceResult:
        """Return the predictions for a request.

        Raises:
            ApiError: 429 when the queue is full; an empty queue accepts a request of any size.
        """
        request = _Request(queries, self._clock(), asyncio.get_running_loop().create_future())
        queued = self.queued_tokens
        if queued and queued + request.tokens > self._max_queued_tokens:
            wait_s = queued / self._tokens_per_s if self._tokens_per_s else 1.0
            raise overloaded("the queue of the model is full; try again later", retry_after_s=min(wait_s, 60.0))
        self._queue.append(request)
        self._wakeup.set()
        try:
            return await request.result
        except asyncio.CancelledError:
            request.result.cancel()
            raise

    async def _process_queue(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while batch := self._next_batch():
                self._runs_alone = not self._running and (self._lanes == 1 or _rows(batch) <= _SMALL_ROWS)
                task = asyncio.create_task(self._run_batch(batch, self._runs_alone))
                self._running.add(task)
                task.add_done_callback(self._finish_batch)

    def _finish_batch(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._runs_alone = False
        self._wakeup.set()

    def _next_batch(self) -> list[_Slice]:
        """Take the next batch from the queue; it is empty if no request is waiting or no batch may start yet."""
        self._queue = deque(request for request in self._queue if not request.result.done() and request.waiting_rows)
        free_lanes = 0 if self._runs_alone else self._lanes - len(self._running)
        if not self._queue or not free_lanes or self._should_wait():
            return []
        waiting_rows = sum(request.waiting_rows for request in self._queue)
        max_rows = self._max_rows
        if waiting_rows > _SMALL_ROWS or self._running:
            max_rows = min(self._max_rows, math.ceil(waiting_rows / free_lanes))
        slice_tokens = min(self._max_tokens, max(_MIN_SLICE_TOKENS, int(self._tokens_per_s * _SLICE_S / self._lanes)))
        large = next((request for request in self._queue if self._is_large(request, slice_tokens)), None)
        small = [request for request in self._queue if not self._is_large(request, slice_tokens)]
        if large and (self._large_is_next or not small):
            self._large_is_next = False
            return [_take_slice(large, max_rows, slice_tokens)]
        self._large_is_next = True
        batch_tokens = min(self._max_tokens, _SLICES_PER_BATCH * slice_tokens)
        batch: list[_Slice] = []
        rows = tokens = 0
        for request in small:
            rows, tokens = rows + request.waiting_rows, tokens + request.waiting_tokens
            if batch and (rows > max_rows or tokens > batch_tokens):
                break
            batch.append(_take_slice(request, request.waiting_rows, request.waiting_tokens))
        return batch

    def _is_large(self, request: _Request, slice_tokens: int) -> bool:
        return len(request.queries) > self._max_rows or request.tokens > slice_tokens

    def _should_wait(self) -> bool:
        """Return True to delay the next batch while others run, after scheduling the wake-up."""
        remaining_s = _GATHER_S - (self._clock() - self._queue[0].arrived_at)
        is_batch_full = sum(request.waiting_rows for request in self._queue) >= self._max_rows
        if not self._running or remaining_s <= 0 or is_batch_full:
            return False
        asyncio.get_running_loop().call_later(remaining_s, self._wakeup.set)
        return True

    async def _run_batch(self, batch: Sequence[_Slice], alone: bool) -> None:
        start, queued_tokens = self._clock(), self.queued_tokens
        waits = [start - slice_.request.arrived_at for slice_ in batch if not slice_.first]
        try:
            predictions = await self._run([query for slice_ in batch for query in slice_.queries], alone)
        except Exception as error:
            for slice_ in batch:
                if not slice_.request.result.done():
                    slice_.request.result.set_exception(error)
            return
        except asyncio.CancelledError:
            for slice_ in batch:
                slice_.request.result.cancel()
            raise
        duration = max(self._clock() - start, 1e-9)
        tokens = sum(_tokens(slice_.queries) for slice_ in batch)
        speed = tokens / duration * len(self._running)
        self._tokens_per_s += (speed - self._tokens_per_s) * (_LATEST_WEIGHT if self._tokens_per_s else 1.0)
        remaining = iter(predictions)
        for slice_ in batch:
            _record(slice_, list(itertools.islice(remaining, len(slice_.queries))), start, duration)
        if self._report is not None:
            self._report(BatchReport(len(predictions), tokens, waits, duration, queued_tokens))


def _take_slice(request: _Request, max_rows: int, max_tokens: int) -> _Slice:
    """Take at least one waiting query of a request, and more up to the limits."""
    first, tokens = request.started, 0
    while request.waiting_rows:
        query_tokens = len(request.queries[request.started].input_ids)
        tokens += query_tokens
        if request.started > first and (request.started - first == max_rows or tokens > max_tokens):
            break
        request.waiting_tokens -= query_tokens
        request.started += 1
    return _Slice(request, first, request.queries[first : request.started])


def _record(slice_: _Slice, predictions: Sequence[Any], start: float, duration: float) -> None:
    """Store the predictions of a slice, and resolve its request when they are complete."""
    request = slice_.request
    if not slice_.first:
        request.queue_s = start - request.arrived_at
    request.predictions[slice_.first : slice_.first + len(slice_.queries)] = predictions
    request.finished += len(slice_.queries)
    request.inference_s += duration
    if request.finished == len(request.queries) and not request.result.done():
        request.result.set_result(
            InferenceResult(request.predictions, request.tokens, request.queue_s, request.inference_s)
        )


def _rows(batch: Sequence[_Slice]) -> int:
    return sum(len(slice_.queries) for slice_ in batch)


def _tokens(queries: Sequence[EncodedText]) -> int:
    return sum(len(query.input_ids) for query in queries)
