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

FOLDERS = {"one": "/one", "two": "/two", "torn": "/torn"}


class Service:
    """Stands for a service that was started."""

    def __init__(self, folder):
        self.folder, self.answering, self.closed = folder, 0, False

    async def close(self):
        assert not self.answering
        self.closed = True


class Starts:
    """Starts services when it is let; `/torn` fails."""

    def __init__(self):
        self.started, self.go = [], asyncio.Event()
        self.go.set()

    async def __call__(self, _, folder):
        self.started.append(folder)
        await self.go.wait()
        if folder == "/torn":
            raise OSError("torn weights in /torn")
        return Service(folder)


def one_place(load):
    """A cache that holds the last model, as that of Ray Serve does."""
    held = OrderedDict()

    async def cached(name):
        if name not in held:
            held.clear()
            held[name] = await load(name)
        return held[name]

    return cached


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(module, "_HANDOVER_S", 0.02)
    monkeypatch.setattr(module, "_POLL_S", 0.005)


def models(starts, load_timeout_s=5.0, clock=lambda: 0.0):
    return ModelCache(FOLDERS, starts, cache=one_place, load_timeout_s=load_timeout_s, clock=clock)


def in_loop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


@in_loop
async def test_a_model_is_loaded_once_for_all_who_wait_for_it():
    starts = Starts()
    others = models(starts)
    found = await asyncio.gather(*(others.service("one") for _ in range(5)))
    assert starts.started == ["/one"]
    assert all(each is found[0] for each in found)
    assert await others.service("one") is found[0]


@in_loop
async def test_who_gives_up_does_not_take_the_model_from_the_others():
    starts = Starts()
    starts.go.clear()
    others = models(starts)
    first, second = (asyncio.create_task(others.service("one")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    starts.go.set()
    assert (await second).folder == "/one"
    assert starts.started == ["/one"]


@in_loop
async def test_who_waits_too_long_is_told_to_come_back_and_finds_the_model_then():
    starts = Starts()
    starts.go.clear()
    others = models(starts, load_timeout_s=0.01)
    with pytest.raises(ApiError) as caught:
        await others.service("one")
    assert (caught.value.status_code, caught.value.headers["retry-after"]) == (503, "1")
    starts.go.set()
    await asyncio.sleep(0.01)
    assert (await others.service("one")).folder == "/one"
    assert starts.started == ["/one"]


@in_loop
async def test_a_folder_that_fails_is_503_for_a_while_with_the_reason_in_the_log_alone(caplog):
    starts, now = Starts(), [0.0]
    others = models(starts, clock=lambda: now[0])
    with caplog.at_level(logging.ERROR, "serve"):
        for _ in range(3):
            with pytest.raises(ApiError) as caught:
                await others.service("torn")
            assert (caught.value.status_code, caught.value.error_type) == (503, "Unavailable")
            assert "weights" not in str(caught.value.detail)
    assert starts.started == ["/torn"]
    assert "torn weights in /torn" in caplog.text
    now[0] = 0.6
    with pytest.raises(ApiError) as caught:
        await others.service("torn")
    assert caught.value.headers["retry-after"] == "60"  # not a moment too early
    now[0] = 61.0
    with pytest.raises(ApiError):
        await others.service("torn")
    assert starts.started == ["/torn", "/torn"]
    assert (await others.service("one")).folder == "/one"


@in_loop
async def test_a_model_that_lost_its_place_is_closed_after_its_last_answer_and_before_the_next_is_loaded():
    starts = Starts()
    others = models(starts)
    one = await others.service("one")
    one.answering = 1
    two = asyncio.create_task(others.service("two"))
    await asyncio.sleep(0.1)
    assert (one.closed, starts.started) == (False, ["/one"])
    one.answering = 0
    assert (await two).folder == "/two"
    assert one.closed


@in_loop
async def test_a_model_that_was_dropped_is_gone_from_memory():
    others = models(Starts())
    one = await others.service("one")
    alive = weakref.ref(one)
    del one
    await others.service("two")
    await asyncio.sleep(0)
    gc.collect()
    assert alive() is None
