"""Requests that arrive while the model is busy share its next forward, each with its own parameters."""

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
# Weight of the newest batch in the running mean of tokens/s.
_NEWEST = 0.2
# Texts that are answered sooner by all cores together than by one each.
_FEW = 4
# Who is answered by the same batch asks again at about the same time: a free lane waits so long for the others.
_GATHER_S = 0.004
# A request that takes longer is large: it runs in slices of about this time, with small requests in between.
_SLICE_S = 0.25
# Smaller slices would waste time of the matrix kernels.
_MIN_SLICE_TOKENS = 256
# Tokens of a batch of small requests, in slices: larger batches are hardly more efficient.
_SLICES_IN_BATCH = 4


@dataclass(frozen=True)
class InferenceResult:
    """Predictions of a request.

    Attributes:
        predictions: one for each query, in order.
        tokens: of the request.
        queue_s: time until its first batch began, in seconds.
        inference_s: time of its batches, in seconds.
    """

    predictions: list[Any]
    tokens: int
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class BatchReport:
    """One forward, for the metrics.

    Attributes:
        rows, tokens: texts and their tokens, without padding.
        queue_s: how long each request waited that began with this batch, in seconds.
        inference_s: how long the forward took, in seconds.
        queued_tokens: what waited for the model when the forward began.
    """

    rows: int
    tokens: int
    queue_s: Sequence[float]
    inference_s: float
    queued_tokens: int


@dataclass
class _Request:
    """A request, of which `started` queries have been put into batches and `finished` have predictions."""

    queries: Sequence[EncodedText]
    since: float
    done: asyncio.Future[InferenceResult]
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
    """Consecutive queries of a request."""

    request: _Request
    first: int
    queries: Sequence[EncodedText]


class MicroBatcher:
    """A queue in front of the model, bounded by tokens.

    A single request runs immediately on all cores. Under load, each batch contains the requests that arrived while the
    previous ones were running, and up to `lanes` batches run at the same time. A request that would occupy the model
    for long runs in slices, which take turns with batches of small requests. Large requests run one after the other, so
    that under overload the first ones meet their deadline. The rest of a cancelled request never runs.

    Args:
        run: computes the predictions of a batch; its second argument is whether the batch runs alone.
        max_rows, max_tokens: of a batch; a larger request is split, and a longer text runs by itself.
        max_queued_tokens: beyond which requests are turned away.
        lanes: batches at the same time.
        report: called after each batch.
        clock: seconds.
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
        self._arrived = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._tokens_per_s = 0.0

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the model."""
        return sum(each.waiting_tokens for each in self._queue if not each.done.done())

    @property
    def full(self) -> bool:
        """Whether the queue has reached its bound."""
        return self.queued_tokens >= self._max_queued_tokens

    def start(self) -> None:
        """Starts to serve the queue on the running event loop; a second call does nothing."""
        if self._loop_task is None:
            self._loop_task = asyncio.get_running_loop().create_task(self._serve_queue())

    async def close(self) -> None:
        """Stops; what still waits is cancelled."""
        tasks = [*self._running, *([self._loop_task] if self._loop_task else [])]
        self._loop_task = None
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for each in self._queue:
            each.done.cancel()
        self._queue.clear()

    async def submit(self, queries: Sequence[EncodedText]) -> InferenceResult:
        """The predictions, in the order of the queries.

        Raises:
            ApiError: 429 when the queue is full; a request larger than the whole bound is let in when nothing waits.
        """
        request = _Request(queries, self._clock(), asyncio.get_running_loop().create_future())
        queued = self.queued_tokens
        if queued and queued + request.tokens > self._max_queued_tokens:
            wait = queued / self._tokens_per_s if self._tokens_per_s else 1.0
            raise overloaded("the queue of the model is full; try again later", retry_after_s=min(wait, 60.0))
        self._queue.append(request)
        self._arrived.set()
        try:
            return await request.done
        except asyncio.CancelledError:
            request.done.cancel()
            raise

    async def _serve_queue(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._next_batch():
                self._runs_alone = not self._running and (self._lanes == 1 or _rows(batch) <= _FEW)
                task = asyncio.create_task(self._serve_batch(batch, self._runs_alone))
                self._running.add(task)
                task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._runs_alone = False
        self._arrived.set()

    def _next_batch(self) -> list[_Slice]:
        """The next batch; empty when nothing waits or nothing may start now."""
        self._queue = deque(each for each in self._queue if not each.done.done() and each.waiting_rows)
        free = 0 if self._runs_alone else self._lanes - len(self._running)
        if not self._queue or not free or self._gathers():
            return []
        waiting_rows = sum(each.waiting_rows for each in self._queue)
        rows_of_lane = self._max_rows
        if waiting_rows > _FEW or self._running:
            rows_of_lane = min(self._max_rows, math.ceil(waiting_rows / free))
        slice_tokens = min(self._max_tokens, max(_MIN_SLICE_TOKENS, int(self._tokens_per_s * _SLICE_S / self._lanes)))
        large = next((each for each in self._queue if self._is_large(each, slice_tokens)), None)
        small = [each for each in self._queue if not self._is_large(each, slice_tokens)]
        if large and (self._large_is_next or not small):
            self._large_is_next = False
            return [_take(large, rows_of_lane, slice_tokens)]
        self._large_is_next = True
        batch_tokens = min(self._max_tokens, _SLICES_IN_BATCH * slice_tokens)
        batch: list[_Slice] = []
        rows = tokens = 0
        for each in small:
            rows, tokens = rows + each.waiting_rows, tokens + each.waiting_tokens
            if batch and (rows > rows_of_lane or tokens > batch_tokens):
                break
            batch.append(_take(each, each.waiting_rows, each.waiting_tokens))
        return batch

    def _is_large(self, request: _Request, slice_tokens: int) -> bool:
        return len(request.queries) > self._max_rows or request.tokens > slice_tokens

    def _gathers(self) -> bool:
        """Whether a free lane waits for more, beside others that work; it is woken when it has waited."""
        left = _GATHER_S - (self._clock() - self._queue[0].since)
        if not self._running or left <= 0 or sum(each.waiting_rows for each in self._queue) >= self._max_rows:
            return False
        asyncio.get_running_loop().call_later(left, self._arrived.set)
        return True

    async def _serve_batch(self, batch: Sequence[_Slice], alone: bool) -> None:
        began, queued_tokens = self._clock(), self.queued_tokens
        waits = [began - each.request.since for each in batch if not each.first]
        try:
            predictions = await self._run([query for each in batch for query in each.queries], alone)
        except Exception as error:
            for each in batch:
                if not each.request.done.done():
                    each.request.done.set_exception(error)
            return
        except asyncio.CancelledError:
            for each in batch:
                each.request.done.cancel()
            raise
        took = max(self._clock() - began, 1e-9)
        tokens = sum(_tokens(each.queries) for each in batch)
        speed = tokens / took * len(self._running)
        self._tokens_per_s += (speed - self._tokens_per_s) * (_NEWEST if self._tokens_per_s else 1.0)
        rest = iter(predictions)
        for each in batch:
            _record(each, list(itertools.islice(rest, len(each.queries))), began, took)
        if self._report is not None:
            self._report(BatchReport(len(predictions), tokens, waits, took, queued_tokens))


def _take(request: _Request, max_rows: int, max_tokens: int) -> _Slice:
    """The next slice of a request: at least one query."""
    first, tokens = request.started, 0
    while request.waiting_rows:
        tokens += len(request.queries[request.started].input_ids)
        if request.started > first and (request.started - first == max_rows or tokens > max_tokens):
            break
        request.waiting_tokens -= len(request.queries[request.started].input_ids)
        request.started += 1
    return _Slice(request, first, request.queries[first : request.started])


def _record(part: _Slice, predictions: Sequence[Any], began: float, took: float) -> None:
    """Store the predictions of a slice, and resolve its request when they are complete."""
    request = part.request
    if not part.first:
        request.queue_s = began - request.since
    request.predictions[part.first : part.first + len(part.queries)] = predictions
    request.finished += len(part.queries)
    request.inference_s += took
    if request.finished == len(request.queries) and not request.done.done():
        served = InferenceResult(request.predictions, request.tokens, request.queue_s, request.inference_s)
        request.done.set_result(served)


def _rows(batch: Sequence[_Slice]) -> int:
    return sum(len(each.queries) for each in batch)


def _tokens(queries: Sequence[EncodedText]) -> int:
    return sum(len(query.input_ids) for query in queries)
