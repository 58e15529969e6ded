import asyncio
import gc
import logging
import weakref
from collections import OrderedDict

import pytest

from serve import models
from serve.errors import ApiError
from serve.models import ModelCache

pytestmark = pytest.mark.anyio
FOLDERS = {"one": "/one", "two": "/two", "broken": "/broken"}


class Service:
    """Fake of a started service."""

    def __init__(self, folder):
        self.folder, self.active_requests, self.closed = folder, 0, False

    async def close(self):
        assert not self.active_requests
        self.closed = True


def cache_of_one(load):
    """Cache for one model, with the eviction policy of Ray Serve."""
    cache = OrderedDict()

    async def cached(name):
        if name not in cache:
            cache.clear()
            cache[name] = await load(name)
        return cache[name]

    return cached


class Cache:
    """Model cache whose services start once allowed; `/broken` fails.

    Attributes:
        started: folders of the started services.
        closed: names of the closed services, with their folders.
    """

    def __init__(self, load_timeout_s=30.0):
        self.started, self.closed, self.go, self.now = [], [], asyncio.Event(), 0.0
        self.go.set()
        self._cache = ModelCache(
            FOLDERS,
            self._start,
            wrap=cache_of_one,
            load_timeout_s=load_timeout_s,
            on_close=lambda name, service: self.closed.append((name, service.folder)),
            clock=lambda: self.now,
        )
        self.service = self._cache.service

    async def _start(self, name, folder):
        assert FOLDERS[name] == folder
        self.started.append(folder)
        await self.go.wait()
        if folder == "/broken":
            raise OSError("broken weights in /broken")
        return Service(folder)

    async def error(self, name):
        """Return status and retry time of a request that fails."""
        with pytest.raises(ApiError) as caught:
            await self.service(name)
        assert caught.value.error_type == "Unavailable"
        assert "weights" not in str(caught.value.detail)
        return caught.value.status_code, caught.value.headers["retry-after"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(models, "_EVICTION_DELAY_S", 0.02)
    monkeypatch.setattr(models, "_POLL_S", 0.005)


async def test_a_model_is_loaded_once_for_all_waiting_requests():
    cache = Cache()
    services = await asyncio.gather(*(cache.service("one") for _ in range(5)))
    assert cache.started == ["/one"]
    assert all(each is services[0] for each in [*services, await cache.service("one")])


async def test_a_request_that_gives_up_does_not_cancel_loading():
    cache = Cache()
    cache.go.clear()
    first, second = (asyncio.create_task(cache.service("one")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    cache.go.set()
    assert (await second).folder == "/one"
    assert cache.started == ["/one"]


async def test_a_request_that_waits_too_long_gets_503_and_can_retry():
    cache = Cache(load_timeout_s=0.01)
    cache.go.clear()
    assert await cache.error("one") == (503, "1")
    cache.go.set()
    await asyncio.sleep(0.01)
    assert (await cache.service("one")).folder == "/one"
    assert cache.started == ["/one"]


async def test_a_failing_folder_is_503_for_a_minute_with_the_reason_only_in_the_log(caplog):
    cache = Cache()
    with caplog.at_level(logging.ERROR, "serve"):
        for cache.now, retry_after in ((0.0, "60"), (0.6, "60"), (59.0, "1")):
            assert await cache.error("broken") == (503, retry_after)
    assert cache.started == ["/broken"]
    assert "broken weights in /broken" in caplog.text
    cache.now = 60.0
    await cache.error("broken")
    assert cache.started == ["/broken", "/broken"]
    assert (await cache.service("one")).folder == "/one"


async def test_an_evicted_model_is_closed_after_its_last_request_and_before_the_next_is_loaded():
    cache = Cache()
    one = await cache.service("one")
    one.active_requests = 1
    two = asyncio.create_task(cache.service("two"))
    await asyncio.sleep(0.1)
    assert (one.closed, cache.started, cache.closed) == (False, ["/one"], [])
    one.active_requests = 0
    assert (await two).folder == "/two"
    assert one.closed
    assert cache.closed == [("one", "/one")]


async def test_an_evicted_model_is_freed():
    cache = Cache()
    alive = weakref.ref(await cache.service("one"))
    await cache.service("two")
    await asyncio.sleep(0)
    gc.collect()
    assert alive() is None
