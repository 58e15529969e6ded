"""The service without HTTP and Ray: limits, deadline, and batches of concurrent requests over one model."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.encoding import EncodedQuery, Query
from distilray.inference.fill_mask import Answer, FillMask
from distilray.inference.text_errors import InputTextError
from serve.admission.batcher import MicroBatcher, Report, Served
from serve.errors import ApiError, text_error
from serve.inference_threads import InferenceThreads

_WARM_UP_ROWS = (1, 8, 32)


class FillMaskService:
    """Answers requests with one model, which runs in a thread so that the event loop stays free.

    Args:
        model: loaded.
        config: limits and sizes.
        report: called after each forward.
        threads: where forwards run, shared by the models of a process; as many as `config.num_cpus` of its own if None.
        clock: seconds.
    """

    def __init__(
        self,
        model: FillMask,
        config: FillMaskAppConfig,
        *,
        report: Report | None = None,
        threads: InferenceThreads | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.config = model, config
        self.answering = 0
        self._forwards = 0
        self._clock, self._progress_at = clock, clock()
        self._tokenisation = ThreadPoolExecutor(1, "tokenisation")
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
        self._tokenisation.shutdown(wait=False, cancel_futures=True)
        if self._owns_threads:
            self._threads.close()

    async def check_health(self, *, timeout_s: float) -> None:
        """A forward, ahead of the queue.

        Raises:
            TimeoutError: the model did not answer in time.
        """
        async with asyncio.timeout(timeout_s):
            await self._probe(1)

    async def answer(self, queries: Sequence[Query]) -> Served:
        """The candidates for every query, in order.

        Raises:
            ApiError: 422 for input beyond the limits or that cannot be filled, 429 when the queue is full, 504 when
                the deadline passed.
        """
        self._check(queries)
        deadline_s = self.config.limits.deadline_s
        self._begin()
        self.answering += 1
        try:
            async with asyncio.timeout(deadline_s):
                served = await self._batcher.submit(await self._encode(queries))
            self._progress_at = self._clock()
            return served
        except TimeoutError:
            raise ApiError(504, f"no answer within {deadline_s:g} s; try again, with fewer texts") from None
        finally:
            self.answering -= 1

    def info(self) -> dict[str, object]:
        """The model: architecture, revision, dtype, limits."""
        return {
            "architecture": self.model.architecture,
            "revision": self.model.revision,
            "dtype": self.model.dtype,
            "mask_token": self.model.mask_token,
            "max_length": self.model.max_length,
            "limits": self.config.limits.model_dump(),
        }

    def _check(self, queries: Sequence[Query]) -> None:
        limits = self.config.limits
        if not queries:
            raise ApiError(422, "no text; send at least one", error_type="Empty")
        if len(queries) > limits.max_items:
            raise ApiError(422, f"{len(queries)} texts; send at most {limits.max_items} in a request")
        if queries[0].top_k > limits.max_top_k:
            raise ApiError(422, f"parameters.top_k: at most {limits.max_top_k}")
        if len(queries[0].targets or ()) > limits.max_targets:
            raise ApiError(422, f"parameters.targets: at most {limits.max_targets}")
        for index, query in enumerate(queries):
            if len(query.text) > limits.max_chars:
                problem = f"{len(query.text):,} characters; send at most {limits.max_chars:,}"
                raise text_error(InputTextError("too_long", index, problem))

    async def _encode(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        loop = asyncio.get_running_loop()
        try:
            encoded = await loop.run_in_executor(self._tokenisation, self.model.encode, queries)
        except InputTextError as error:
            self._progress_at = self._clock()  # a refusal of bad input is an answer too
            raise text_error(error) from None
        most = self.config.limits.max_masks
        for index, each in enumerate(encoded):
            if len(each.mask_positions) > most:
                problem = f"{len(each.mask_positions)} masks; send at most {most}"
                raise text_error(InputTextError("too_many_masks", index, problem))
        return encoded

    async def _forward(self, encoded: Sequence[EncodedQuery], alone: bool = True) -> list[Answer]:
        self._begin()
        self._forwards += 1
        try:
            answers = await self._threads.run(lambda: self.model.fill_encoded(encoded), alone=alone)
            self._progress_at = self._clock()
            return answers
        finally:
            self._forwards -= 1

    def _begin(self) -> None:
        """Note the start of work; time without work does not count as time without progress."""
        if not self.answering and not self._forwards:
            self._progress_at = self._clock()

    async def _probe(self, rows: int) -> None:
        query = Query(f"a {self.model.mask_token} probe.", top_k=1)
        await self._forward(await self._encode([query] * rows))
