"""Models of one replica: the default model, and a cache of others that are loaded on demand."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from serve.errors import ApiError, unavailable
from serve.service import ModelService
from serve.telemetry.json_logging import LOGGER_NAME

Start = Callable[[str, str], Awaitable[ModelService]]
Load = Callable[[str], Awaitable["CachedModel"]]
GetService = Callable[[str], Awaitable[ModelService]]
_LOG = logging.getLogger(LOGGER_NAME)
# Wait before retrying a folder that failed to load, because each attempt evicts a working model.
_RETRY_AFTER_S = 60.0
# By then, a request that received a model just before its eviction has registered as active.
_EVICTION_DELAY_S = 0.2
_POLL_S = 0.05


class Models:
    """Model services by name.

    Args:
        default: service for requests that name no model.
        name: name of the default model.
        others: names of the other models.
        load: returns the started service of another model; called for each request that names it.
    """

    def __init__(
        self,
        default: ModelService,
        *,
        name: str = "default",
        others: Sequence[str] = (),
        load: GetService | None = None,
    ) -> None:
        self.default, self.names = default, (name, *others)
        self._load = load

    @property
    def task(self) -> str:
        """Name of the task, which all models share."""
        return self.default.task.name

    async def service(self, name: str | None) -> ModelService:
        """Return the service of a model; None selects the default model.

        Raises:
            ApiError: 404 for an unknown name.
        """
        if name is None or name == self.names[0]:
            return self.default
        if name not in self.names or self._load is None:
            served = ", ".join(self.names)
            raise ApiError(404, f"no such model; available models: {served}", error_type="UnknownModel")
        return await self._load(name)

    async def start(self) -> None:
        """Start the default model on the running event loop."""
        await self.default.start()

    async def close(self) -> None:
        """Stop the default model; the loader is responsible for the others."""
        await self.default.close()

    def info(self) -> dict[str, object]:
        """Describe the models, with the revision, dtype and limits of the default one."""
        return {"model": self.names[0], "models": list(self.names), **self.default.info()}


class CachedModel:
    """Cache entry that retires its service when Ray Serve (by calling `__del__`) or Python deletes it."""

    def __init__(self, service: ModelService, retire: Callable[[], None]) -> None:
        self.service, self._retire = service, retire

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed, so there is nothing to release
            self._retire()


class ModelCache:
    """Services of further models: each is loaded once, and closed after eviction when its last request is done.

    Args:
        folders: model folder by name.
        start: returns the started service for a name and folder; may take seconds but must not block the event loop.
        wrap: adds a cache to the loader; the cache decides how many models to keep and which one to evict.
        load_timeout_s: maximum time that a request waits for its model.
        on_close: called with name and service when an evicted model has been closed.
        clock: returns seconds.
    """

    def __init__(
        self,
        folders: Mapping[str, str],
        start: Start,
        *,
        wrap: Callable[[Load], Load],
        load_timeout_s: float,
        on_close: Callable[[str, ModelService], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._start, self._load_timeout_s, self._clock = folders, start, load_timeout_s, clock
        self._load_cached, self._on_close = wrap(self._load), on_close
        self._loading: dict[str, asyncio.Task[CachedModel]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._failed_at: dict[str, float] = {}

    async def service(self, name: str) -> ModelService:
        """Return the service of a model.

        Raises:
            ApiError: 503 while the model is loading, and for a minute after loading failed.
        """
        since_failure = self._clock() - self._failed_at.get(name, -_RETRY_AFTER_S)
        if since_failure < _RETRY_AFTER_S:
            raise _cannot_be_loaded(name, _RETRY_AFTER_S - since_failure)
        # Load in a separate task, so that a request that gives up does not cancel it for the others.
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._try_load(name))
            self._loading[name].add_done_callback(functools.partial(self._finish_loading, name))
        try:
            async with asyncio.timeout(self._load_timeout_s):
                model = await asyncio.shield(self._loading[name])
        except TimeoutError:
            raise unavailable(f"model {name} is being loaded; try again later", retry_after_s=1) from None
        return model.service

    async def _load(self, name: str) -> CachedModel:
        # Close evicted models first, so that the number of models in memory stays within its limit.
        await asyncio.sleep(0)  # let the loop run the callbacks that `__del__` has scheduled
        if self._retiring:
            await asyncio.wait(self._retiring)
        service = await self._start(name, self._folders[name])
        _LOG.info("model %s loaded", name)
        loop = asyncio.get_running_loop()
        return CachedModel(service, _once(lambda: loop.call_soon_threadsafe(self._retire, name, service)))

    async def _try_load(self, name: str) -> CachedModel:
        try:
            return await self._load_cached(name)
        except Exception as error:
            self._failed_at[name] = self._clock()
            _LOG.error("model %s, %s: cannot be loaded: %s", name, self._folders[name], error)
            raise _cannot_be_loaded(name, _RETRY_AFTER_S) from None

    def _finish_loading(self, name: str, task: asyncio.Task[CachedModel]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # retrieve the logged exception, or asyncio warns if no request is waiting for it

    def _retire(self, name: str, service: ModelService) -> None:
        task = asyncio.get_running_loop().create_task(self._close(name, service))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close(self, name: str, service: ModelService) -> None:
        await asyncio.sleep(_EVICTION_DELAY_S)
        while service.active_requests:
            await asyncio.sleep(_POLL_S)
        await service.close()
        _LOG.info("model %s unloaded", name)
        if self._on_close is not None:
            self._on_close(name, service)


def _once(action: Callable[[], object]) -> Callable[[], None]:
    pending = [action]

    def run() -> None:
        if pending:
            pending.pop()()

    return run


def _cannot_be_loaded(name: str, retry_after_s: float) -> ApiError:
    return unavailable(f"model {name} cannot be loaded; see the server log", retry_after_s=retry_after_s)
