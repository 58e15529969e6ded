"""The models of one replica, by the name that a request gives: the default one, and a cache of others."""

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
# A folder that could not be loaded is left alone for so long: each attempt takes the place of a model that works.
_RETRY_AFTER_S = 60.0
# Who was given a model in the moment before it lost its place has begun to use it by then.
_HANDOVER_S = 0.2
_POLL_S = 0.05


class Models:
    """The default model, which is there from the start, and others that are loaded when a request names them.

    Args:
        default: answers every request that names no model.
        name: of the default model.
        others: names of the other models.
        load: gives the service of one of the others, started; called for every request that names it.
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
        """Name of the task, which all models have."""
        return self.default.task.name

    async def service(self, name: str | None) -> ModelService:
        """The service of a name, the default one for None.

        Raises:
            ApiError: 404 for a name that is not served.
        """
        if name is None or name == self.names[0]:
            return self.default
        if name not in self.names or self._load is None:
            served = ", ".join(self.names)
            raise ApiError(404, f"no such model; models here: {served}", error_type="UnknownModel")
        return await self._load(name)

    async def start(self) -> None:
        """Starts the default model on the running event loop."""
        await self.default.start()

    async def close(self) -> None:
        """Stops the default model; who loads the others stops them."""
        await self.default.close()

    def info(self) -> dict[str, object]:
        """What is served: names, and the default model's revision, dtype and limits."""
        return {"model": self.names[0], "models": list(self.names), **self.default.info()}


class CachedModel:
    """What the cache holds. Ray Serve calls `__del__` when it drops a model, and Python does when nobody holds it."""

    def __init__(self, service: ModelService, retire: Callable[[], None]) -> None:
        self.service, self._retire = service, retire

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended, and with it all that the model held
            self._retire()


class ModelCache:
    """Services by name: each is loaded once for all who wait for it, and closed when it has answered its last request.

    Args:
        folders: name -> model folder.
        start: name, folder -> service, started; may take seconds, and must leave the event loop free.
        cache: puts itself before the loader; it decides how many models are held, and which one goes.
        load_timeout_s: how long a request waits for a model to be loaded.
        dropped: called with name and service when one has been closed.
        clock: seconds.
    """

    def __init__(
        self,
        folders: Mapping[str, str],
        start: Start,
        *,
        cache: Callable[[Load], Load],
        load_timeout_s: float,
        dropped: Callable[[str, ModelService], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._start, self._patience_s, self._clock = folders, start, load_timeout_s, clock
        self._cached, self._dropped = cache(self._load), dropped
        self._loading: dict[str, asyncio.Task[CachedModel]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._failed_at: dict[str, float] = {}

    async def service(self, name: str) -> ModelService:
        """The service of a name.

        Raises:
            ApiError: 503 while the model is loaded, or for some time after that has failed.
        """
        since = self._clock() - self._failed_at.get(name, -_RETRY_AFTER_S)
        if since < _RETRY_AFTER_S:
            raise _cannot_be_loaded(name, _RETRY_AFTER_S - since)
        # A task of its own: a request that gives up does not take the model from the others.
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._try(name))
            self._loading[name].add_done_callback(functools.partial(self._loaded, name))
        try:
            async with asyncio.timeout(self._patience_s):
                loaded = await asyncio.shield(self._loading[name])
        except TimeoutError:
            raise unavailable(f"model {name} is being loaded; try again later", retry_after_s=1) from None
        return loaded.service

    async def _load(self, name: str) -> CachedModel:
        # First those that have lost their place go, so that memory holds no more models than it shall.
        await asyncio.sleep(0)  # what `__del__` has asked of the loop comes first
        if self._retiring:
            await asyncio.wait(self._retiring)
        service = await self._start(name, self._folders[name])
        _LOG.info("model %s loaded", name)
        loop = asyncio.get_running_loop()
        return CachedModel(service, _once(lambda: loop.call_soon_threadsafe(self._retire, name, service)))

    async def _try(self, name: str) -> CachedModel:
        try:
            return await self._cached(name)
        except Exception as error:
            self._failed_at[name] = self._clock()
            _LOG.error("model %s, %s: cannot be loaded: %s", name, self._folders[name], error)
            raise _cannot_be_loaded(name, _RETRY_AFTER_S) from None

    def _loaded(self, name: str, task: asyncio.Task[CachedModel]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # logged already; asyncio would complain where nobody waits for it any more

    def _retire(self, name: str, service: ModelService) -> None:
        task = asyncio.get_running_loop().create_task(self._close(name, service))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close(self, name: str, service: ModelService) -> None:
        await asyncio.sleep(_HANDOVER_S)
        while service.answering:
            await asyncio.sleep(_POLL_S)
        await service.close()
        _LOG.info("model %s dropped", name)
        if self._dropped is not None:
            self._dropped(name, service)


def _once(action: Callable[[], object]) -> Callable[[], None]:
    left = [action]

    def run() -> None:
        if left:
            left.pop()()

    return run


def _cannot_be_loaded(name: str, retry_after_s: float) -> ApiError:
    message = f"model {name} cannot be loaded; the log of the server says why"
    return unavailable(message, retry_after_s=retry_after_s)
