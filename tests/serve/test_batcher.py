import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from serve.batcher import BatchReport, InferenceResult, MicroBatcher
from serve.errors import ApiError
from tests.serve.waiting import until

pytestmark = pytest.mark.anyio


def query(name, tokens=4):
    return SimpleNamespace(text=name, input_ids=range(tokens))


LARGE = [query(f"large {number}", 20) for number in range(6)]


class Model:
    """Returns the text of each query, once the gate is open."""

    def __init__(self):
        self.gate, self.batches, self.alone = asyncio.Event(), [], []

    async def __call__(self, queries, alone):
        self.alone.append(alone)
        self.batches.append([each.text for each in queries])
        await self.gate.wait()
        if any(each.text == "bad" for each in queries):
            raise RuntimeError
        return [each.text for each in queries]

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]


@contextlib.asynccontextmanager
async def batching(*, is_open=True, **limits):
    """Yield a batcher and its model."""
    model = Model()
    batcher = MicroBatcher(model, **({"max_rows": 4, "max_tokens": 50, "max_queued_tokens": 1000} | limits))
    batcher.start()
    batcher.start()  # has no effect
    if is_open:
        model.gate.set()
    try:
        yield batcher, model
    finally:
        await batcher.close()


async def submitted(batcher, *requests):
    """Start to submit requests, and return their tasks when they are waiting or running."""
    tasks = [asyncio.create_task(batcher.submit(request)) for request in requests]
    for _ in range(20):
        await asyncio.sleep(0)
    return tasks


async def test_every_request_gets_its_own_answers_in_order():
    requests = [[query(f"{number}.{part}") for part in range(number % 3 + 1)] for number in range(9)]
    async with batching() as (batcher, _):
        results = await asyncio.gather(*map(batcher.submit, requests))
    assert [result.predictions for result in results] == [[each.text for each in request] for request in requests]


async def test_a_batch_has_at_most_max_rows_of_whole_small_requests():
    async with batching() as (batcher, model):
        await asyncio.gather(*(batcher.submit([query("text")] * size) for size in (3, 2, 1, 1, 4)))
        assert model.sizes == [3, 4, 4]


async def test_a_batch_has_at_most_max_tokens_and_a_longer_text_runs_by_itself():
    async with batching() as (batcher, model):
        await asyncio.gather(*(batcher.submit([query("text", tokens)]) for tokens in (30, 20, 1, 60, 10)))
        assert model.sizes == [2, 1, 2]


async def test_the_slices_of_a_large_request_take_turns_with_small_requests():
    async with batching(is_open=False) as (batcher, model):
        large = await submitted(batcher, LARGE)
        small = await submitted(batcher, *([query(f"small {number}")] for number in range(3)))
        model.gate.set()
        served, *_ = await asyncio.gather(*large, *small)
        kinds = [{name.split()[0] for name in batch} for batch in model.batches]
        assert kinds == [{"large"}, {"small"}, {"large"}, {"large"}]
        assert served.predictions == [each.text for each in LARGE]


async def test_large_requests_run_one_after_the_other():
    finished = []

    async def submit(number):
        await batcher.submit(LARGE)
        finished.append((number, len(model.batches)))

    async with batching() as (batcher, model):
        await asyncio.gather(*(submit(number) for number in range(3)))
    assert finished == [(0, 3), (1, 6), (2, 9)]


async def test_a_single_request_runs_immediately_on_all_cores():
    async with batching(is_open=False, lanes=2) as (batcher, model):
        first = await submitted(batcher, [query("a")])
        assert (model.batches, model.alone) == ([["a"]], [True])
        waiting = await submitted(batcher, [query("b")])
        await asyncio.sleep(0.02)
        assert len(model.batches) == 1, "no other batch may run while one uses all cores"
        model.gate.set()
        await asyncio.gather(*first, *waiting)
        assert model.alone == [True, True]


async def test_many_requests_are_shared_between_the_lanes():
    async with batching(is_open=False, lanes=2, max_rows=8) as (batcher, model):
        tasks = await submitted(batcher, *([query(str(number))] for number in range(10)))
        await until(lambda: len(model.batches) == 2)
        assert (model.sizes, model.alone) == ([5, 5], [False, False])
        model.gate.set()
        assert [(await task).predictions for task in tasks] == [[str(number)] for number in range(10)]


async def test_a_free_lane_waits_shortly_to_combine_requests_while_another_is_busy():
    now = [0.0]
    async with batching(is_open=False, lanes=2, max_rows=8, clock=lambda: now[0]) as (batcher, model):
        tasks = await submitted(batcher, [query(f"busy {number}") for number in range(8)])
        for name in ("c", "d"):
            tasks += await submitted(batcher, [query(name)])
            await asyncio.sleep(0.01)
        assert len(model.batches) == 1
        now[0] = 1.0
        await until(lambda: len(model.batches) == 2)
        assert model.batches[1] == ["c", "d"]
        model.gate.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(("request_size", "expected"), [(1, [["0"], ["2"]]), (6, [["0"] * 4, ["2"] * 4, ["2"] * 2])])
async def test_a_cancelled_request_never_runs_and_frees_its_tokens(request_size, expected):
    requests = [[query(str(number))] * request_size for number in range(3)]
    async with batching(is_open=False, max_rows=4 if request_size > 1 else 1) as (batcher, model):
        first, second, third = await submitted(batcher, *requests)
        for cancelled in (second, first) if request_size > 1 else (second,):
            cancelled.cancel()
        await submitted(batcher)
        assert batcher.queued_tokens == 4 * request_size
        model.gate.set()
        await third
        assert model.batches == expected


@pytest.mark.parametrize("requests", [["ok", "bad", "fine"], ["bad", "ok"]])
async def test_an_error_only_fails_the_requests_of_its_batch(requests):
    async with batching(max_rows=1) as (batcher, _):
        tasks = (batcher.submit([query(name)]) for name in requests)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    types = [RuntimeError if name == "bad" else InferenceResult for name in requests]
    assert list(map(type, results)) == types


async def test_an_error_in_a_slice_only_fails_its_request():
    async with batching() as (batcher, _):
        requests = [[*LARGE[:3], query("bad", 20), *LARGE[4:]], [query("small")]]
        failed, small = await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)
        assert isinstance(failed, RuntimeError)
        assert small.predictions == ["small"]
        assert batcher.queued_tokens == 0


async def test_a_full_queue_rejects_a_request_with_a_retry_time():
    async with batching(is_open=False, max_queued_tokens=100) as (batcher, model):
        tasks = await submitted(batcher, [query("a")])
        tasks += await submitted(batcher, [query("b", 80)])
        with pytest.raises(ApiError) as caught:
            await batcher.submit([query("c", 21)])
        assert (caught.value.status_code, caught.value.headers["retry-after"]) == (429, "1")
        assert not batcher.is_full
        tasks += await submitted(batcher, [query("d", 20)])
        assert batcher.is_full
        model.gate.set()
        await asyncio.gather(*tasks)


async def test_an_empty_queue_accepts_a_request_of_any_size():
    async with batching(max_queued_tokens=100) as (batcher, _):
        assert (await batcher.submit([query("a", 500)])).predictions == ["a"]


@pytest.mark.parametrize(("batch_s", "expected"), [(20.0, (35, 44)), (2.0, (4, 6)), (2000.0, (60, 60))])
async def test_the_retry_time_depends_on_the_queued_tokens_and_the_speed_of_all_lanes(batch_s, expected):
    now = [0.0]
    limits = {"lanes": 2, "max_rows": 8, "max_tokens": 1000, "clock": lambda: now[0]}
    async with batching(is_open=False, **limits) as (batcher, model):
        timed = await submitted(batcher, *([query(str(number), 15)] for number in range(16)))
        await until(lambda: len(model.batches) == 2)
        now[0] = batch_s  # two batches of 120 tokens each
        model.gate.set()
        await asyncio.gather(*timed)
        model.gate.clear()
        waiting = await submitted(batcher, *([query("w", 30)] for _ in range(30)))
        await until(lambda: len(model.batches) == 4)
        with pytest.raises(ApiError) as caught:
            await batcher.submit([query("late", 1000)])
        assert expected[0] <= int(caught.value.headers["retry-after"]) <= expected[1], batcher.queued_tokens
        model.gate.set()
        await asyncio.gather(*waiting)


async def test_waiting_and_inference_times_are_reported_per_request_and_batch():
    now, reports = [0.0], []
    async with batching(is_open=False, clock=lambda: now[0], report=reports.append) as (batcher, model):
        tasks = await submitted(batcher, [query("a", 6)])
        now[0] = 1.0
        tasks += await submitted(batcher, [query("b"), query("c")])
        now[0] = 3.0
        model.gate.set()
        first, second = await asyncio.gather(*tasks)
    assert first == InferenceResult(["a"], tokens=6, queue_s=0.0, inference_s=3.0)
    assert (second.tokens, second.queue_s, second.inference_s) == (8, 2.0, pytest.approx(1e-9))
    assert reports[0] == BatchReport(rows=1, tokens=6, queue_s=[0.0], inference_s=3.0, queued_tokens=0)
    assert (reports[1].rows, reports[1].tokens, reports[1].queue_s) == (2, 8, [2.0])


async def test_the_inference_time_of_a_large_request_is_the_sum_of_its_slices():
    now = [0.0]

    async def run(queries, _):
        now[0] += 1.0
        return queries

    batcher = MicroBatcher(run, max_rows=4, max_tokens=50, max_queued_tokens=1000, clock=lambda: now[0])
    batcher.start()
    result = await batcher.submit(LARGE)
    assert (result.queue_s, result.inference_s) == (0.0, 3.0)
    await batcher.close()


async def test_closing_cancels_waiting_requests():
    async with batching(is_open=False, max_rows=1) as (batcher, _):
        tasks = await submitted(batcher, [query("a")], [query("b")])
        await batcher.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
