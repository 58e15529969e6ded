"""Requests that arrive while the model is busy share its next forward, each with its own parameters."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from distilray.inference.encoding import EncodedQuery
from distilray.inference.fill_mask import Answer
from serve.errors import overloaded

Run = Callable[[Sequence[EncodedQuery]], Awaitable[list[Answer]]]
Report = Callable[["BatchReport"], None]
# Weight of the newest batch in the running mean of tokens/s.
_NEWEST = 0.2


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

    No request waits for company: the next batch is what has arrived while the last one ran, so that a lone request
    pays nothing. A request is never split, and one that was cancelled while it waited is never run.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_rows: int,
        max_tokens: int,
        max_queued_tokens: int,
        report: Report | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run, self._report, self._clock = run, report, clock
        self._max_rows, self._max_tokens, self._max_queued_tokens = max_rows, max_tokens, max_queued_tokens
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
        if self._loop_task is not None:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
            self._loop_task = None
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
                await self._serve_batch(batch)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = tokens = 0
        while self._queue:
            first = self._queue[0]
            if first.done.done():
                self._queue.popleft()
                continue
            rows, tokens = rows + len(first.queries), tokens + first.tokens
            if batch and (rows > self._max_rows or tokens > self._max_tokens):
                break
            batch.append(self._queue.popleft())
        return batch

    async def _serve_batch(self, batch: Sequence[_Waiting]) -> None:
        began, queued_tokens = self._clock(), self.queued_tokens
        try:
            answers = await self._run([query for each in batch for query in each.queries])
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
        speed = tokens / took
        self._tokens_per_s += (speed - self._tokens_per_s) * (_NEWEST if self._tokens_per_s else 1.0)
        if self._report is not None:
            waits = [began - each.since for each in batch]
            self._report(BatchReport(len(answers), tokens, waits, took, queued_tokens))
        place = 0
        for each in batch:
            part = answers[place : place + len(each.queries)]
            place += len(each.queries)
            if not each.done.done():
                each.done.set_result(Served(part, each.tokens, began - each.since, took))
