import asyncio
import functools
import gc
import logging
import weakref
from collections import OrderedDict

import pytest

from serve import models as module
from serve.errors import ApiError
from serve.models import ModelCache

FOLDERS = {"one": "/one", "two": "/two", "broken": "/broken"}


class Service:
    """Fake of a started service."""

    def __init__(self, folder):
        self.folder, self.active_requests, self.closed = folder, 0, False

    async def close(self):
        assert not self.active_requests
        self.closed = True


class Starts:
    """Starts services once allowed; `/broken` fails."""

    def __init__(self):
        self.started, self.go = [], asyncio.Event()
        self.go.set()

    async def __call__(self, _, folder):
        self.started.append(folder)
        await self.go.wait()
        if folder == "/broken":
            raise OSError("broken weights in /broken")
        return Service(folder)


def cache_of_one(load):
    """Cache for one model, with the eviction policy of Ray Serve."""
    held = OrderedDict()

    async def cached(name):
        if name not in held:
            held.clear()
            held[name] = await load(name)
        return held[name]

    return cached


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(module, "_EVICTION_DELAY_S", 0.02)
    monkeypatch.setattr(module, "_POLL_S", 0.005)


def models(starts, load_timeout_s=5.0, clock=lambda: 0.0):
    return ModelCache(FOLDERS, starts, wrap=cache_of_one, load_timeout_s=load_timeout_s, clock=clock)


def in_loop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


@in_loop
async def test_a_model_is_loaded_once_for_all_waiting_requests():
    starts = Starts()
    cache = models(starts)
    services = await asyncio.gather(*(cache.service("one") for _ in range(5)))
    assert starts.started == ["/one"]
    assert all(each is services[0] for each in services)
    assert await cache.service("one") is services[0]


@in_loop
async def test_a_request_that_gives_up_does_not_cancel_loading():
    starts = Starts()
    starts.go.clear()
    cache = models(starts)
    first, second = (asyncio.create_task(cache.service("one")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    starts.go.set()
    assert (await second).folder == "/one"
    assert starts.started == ["/one"]


@in_loop
async def test_a_request_that_waits_too_long_gets_503_and_can_retry():
    starts = Starts()
    starts.go.clear()
    cache = models(starts, load_timeout_s=0.01)
    with pytest.raises(ApiError) as caught:
        await cache.service("one")
    assert (caught.value.status_code, caught.value.headers["retry-after"]) == (503, "1")
    starts.go.set()
    await asyncio.sleep(0.01)
    assert (await cache.service("one")).folder == "/one"
    assert starts.started == ["/one"]


@in_loop
async def test_a_failing_folder_is_503_for_a_minute_with_the_reason_only_in_the_log(caplog):
    starts, now = Starts(), [0.0]
    cache = models(starts, clock=lambda: now[0])
    with caplog.at_level(logging.ERROR, "serve"):
        for _ in range(3):
            with pytest.raises(ApiError) as caught:
                await cache.service("broken")
            assert (caught.value.status_code, caught.value.error_type) == (503, "Unavailable")
            assert "weights" not in str(caught.value.detail)
    assert starts.started == ["/broken"]
    assert "broken weights in /broken" in caplog.text
    now[0] = 0.6
    with pytest.raises(ApiError) as caught:
        await cache.service("broken")
    assert caught.value.headers["retry-after"] == "60"  # rounded up
    now[0] = 61.0
    with pytest.raises(ApiError):
        await cache.service("broken")
    assert starts.started == ["/broken", "/broken"]
    assert (await cache.service("one")).folder == "/one"


@in_loop
async def test_an_evicted_model_is_closed_after_its_last_request_and_before_the_next_is_loaded():
    starts = Starts()
    cache = models(starts)
    one = await cache.service("one")
    one.active_requests = 1
    two = asyncio.create_task(cache.service("two"))
    await asyncio.sleep(0.1)
    assert (one.closed, starts.started) == (False, ["/one"])
    one.active_requests = 0
    assert (await two).folder == "/two"
    assert one.closed


@in_loop
async def test_an_evicted_model_is_freed():
    cache = models(Starts())
    one = await cache.service("one")
    alive = weakref.ref(one)
    del one
    await cache.service("two")
    await asyncio.sleep(0)
    gc.collect()
    assert alive() is None
