"""Requests that arrive while the model is busy share its next forward, each with its own parameters."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from distilray.inference.encoding import EncodedQuery
from distilray.inference.fill_mask import Answer
from serve.errors import overloaded

Run = Callable[[Sequence[EncodedQuery], bool], Awaitable[list[Answer]]]
Report = Callable[["BatchReport"], None]
# Weight of the newest batch in the running mean of tokens/s.
_NEWEST = 0.2
# Texts that are answered sooner by all cores together than by one each.
_FEW = 4
# Who is answered by the same batch asks again at about the same time: a free lane waits so long for the others.
_GATHER_S = 0.004


@dataclass(frozen=True)
class Served:
    """Answers with their tokens, the time they waited for the model and the time it took, in seconds."""

    answers: list[Answer]
    tokens: int
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class BatchReport:
    """One forward, for the metrics.

    Attributes:
        rows, tokens: texts and their tokens, without padding.
        queue_s: how long each request of the batch waited, in seconds.
        inference_s: how long the forward took, in seconds.
        queued_tokens: what waited for the model when the forward began.
    """

    rows: int
    tokens: int
    queue_s: Sequence[float]
    inference_s: float
    queued_tokens: int


@dataclass
class _Waiting:
    queries: Sequence[EncodedQuery]
    tokens: int
    since: float
    done: asyncio.Future[Served]


class MicroBatcher:
    """A queue in front of the model, bounded by tokens.

    A lone request waits for nobody and has all cores. Where requests arrive faster, the next batch is what has arrived
    while the last ones ran, and up to `lanes` batches run beside each other. A request is never split, and one that was
    cancelled while it waited is never run.

    Args:
        run: makes the answers of a batch; told whether it runs alone.
        max_rows, max_tokens: of a batch; a larger request is a batch by itself.
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
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._tokens_per_s = 0.0

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the model."""
        return sum(each.tokens for each in self._queue if not each.done.done())

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

    async def submit(self, queries: Sequence[EncodedQuery]) -> Served:
        """The answers, in the order of the queries.

        Raises:
            ApiError: 429 when the queue is full; a request larger than the whole bound is let in when nothing waits.
        """
        tokens = sum(len(query.input_ids) for query in queries)
        queued = self.queued_tokens
        if queued and queued + tokens > self._max_queued_tokens:
            wait = queued / self._tokens_per_s if self._tokens_per_s else 1.0
            raise overloaded("the queue of the model is full; try again later", retry_after_s=min(wait, 60.0))
        waiting = _Waiting(queries, tokens, self._clock(), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        try:
            return await waiting.done
        except asyncio.CancelledError:
            waiting.done.cancel()
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

    def _next_batch(self) -> list[_Waiting]:
        """What runs next; empty when nothing waits or nothing may start now."""
        waiting = [each for each in self._queue if not each.done.done()]
        self._queue = deque(waiting)
        free = 0 if self._runs_alone else self._lanes - len(self._running)
        if not waiting or not free or self._gathers(waiting):
            return []
        rows_of_lane = self._max_rows
        if _rows(waiting) > _FEW or self._running:
            rows_of_lane = min(self._max_rows, math.ceil(_rows(waiting) / free))
        batch: list[_Waiting] = []
        rows = tokens = 0
        for each in waiting:
            rows, tokens = rows + len(each.queries), tokens + each.tokens
            if batch and (rows > rows_of_lane or tokens > self._max_tokens):
                break
            batch.append(self._queue.popleft())
        return batch

    def _gathers(self, waiting: Sequence[_Waiting]) -> bool:
        """Whether a free lane waits for more, beside others that work; it is woken when it has waited."""
        left = _GATHER_S - (self._clock() - waiting[0].since)
        if not self._running or left <= 0 or _rows(waiting) >= self._max_rows:
            return False
        asyncio.get_running_loop().call_later(left, self._arrived.set)
        return True

    async def _serve_batch(self, batch: Sequence[_Waiting], alone: bool) -> None:
        began, queued_tokens = self._clock(), self.queued_tokens
        try:
            answers = await self._run([query for each in batch for query in each.queries], alone)
        except Exception as error:
            for each in batch:
                if not each.done.done():
                    each.done.set_exception(error)
            return
        except asyncio.CancelledError:
            for each in batch:
                each.done.cancel()
            raise
        took = max(self._clock() - began, 1e-9)
        tokens = sum(each.tokens for each in batch)
        speed = tokens / took * len(self._running)
        self._tokens_per_s += (speed - self._tokens_per_s) * (_NEWEST if self._tokens_per_s else 1.0)
        place = 0
        for each in batch:
            part = answers[place : place + len(each.queries)]
            place += len(each.queries)
            if not each.done.done():
                each.done.set_result(Served(part, each.tokens, began - each.since, took))
        if self._report is not None:
            waits = [began - each.since for each in batch]
            self._report(BatchReport(len(answers), tokens, waits, took, queued_tokens))


def _rows(waiting: Sequence[_Waiting]) -> int:
    return sum(len(each.queries) for each in waiting)
