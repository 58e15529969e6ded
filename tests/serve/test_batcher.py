import asyncio

import pytest

from distilray.inference.tasks.fill_mask import EncodedFillMaskQuery, FillMaskQuery
from serve.batcher import MicroBatcher
from serve.errors import ApiError


def query(name: str, tokens: int = 4) -> EncodedFillMaskQuery:
    return EncodedFillMaskQuery(FillMaskQuery(name), (1,) * tokens, (1,), None)


class Model:
    """Answers a query with its text, after the gate was opened."""

    def __init__(self):
        self.gate, self.batches, self.alone = asyncio.Event(), [], []

    async def __call__(self, queries, alone):
        self.alone.append(alone)
        self.batches.append([each.query.text for each in queries])
        await self.gate.wait()
        if any(each.query.text == "bad" for each in queries):
            raise RuntimeError
        return [each.query.text for each in queries]


def run(scenario, **limits):
    async def main():
        model = Model()
        batcher = MicroBatcher(model, **({"max_rows": 4, "max_tokens": 50, "max_queued_tokens": 100} | limits))
        batcher.start()
        try:
            await scenario(batcher, model)
        finally:
            await batcher.close()

    asyncio.run(main())


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def test_every_request_gets_its_own_answers_in_order():
    async def scenario(batcher, model):
        model.gate.set()
        requests = [[query(f"{number}.{part}") for part in range(number % 3 + 1)] for number in range(9)]
        for served, request in zip(await asyncio.gather(*map(batcher.submit, requests)), requests, strict=True):
            assert served.predictions == [each.query.text for each in request]

    run(scenario)


def test_a_batch_keeps_the_row_budget_and_small_requests_are_whole():
    async def scenario(batcher, model):
        model.gate.set()
        sizes = [3, 2, 1, 1, 4]
        requests = [[query(f"{number}") for _ in range(size)] for number, size in enumerate(sizes)]
        await asyncio.gather(*map(batcher.submit, requests))
        assert [len(batch) for batch in model.batches] == [3, 4, 4]

    run(scenario)


def test_a_batch_keeps_the_token_budget_and_a_longer_text_runs_by_itself():
    async def scenario(batcher, model):
        model.gate.set()
        requests = [[query("text", tokens)] for tokens in (30, 20, 1, 60, 10)]
        await asyncio.gather(*map(batcher.submit, requests))
        assert [len(batch) for batch in model.batches] == [2, 1, 2]

    run(scenario, max_queued_tokens=1000)


LARGE = [query(f"large {number}", 20) for number in range(6)]


def test_the_slices_of_a_large_request_take_turns_with_small_requests():
    async def scenario(batcher, model):
        large = asyncio.create_task(batcher.submit(LARGE))
        await settle()
        small = [asyncio.create_task(batcher.submit([query(f"small {number}")])) for number in range(3)]
        await settle()
        model.gate.set()
        served, *_ = await asyncio.gather(large, *small)
        kinds = [{name.split()[0] for name in batch} for batch in model.batches]
        assert kinds == [{"large"}, {"small"}, {"large"}, {"large"}]
        assert served.predictions == [each.query.text for each in LARGE]

    run(scenario, max_queued_tokens=1000)


def test_large_requests_run_one_after_the_other():
    async def scenario(batcher, model):
        model.gate.set()
        finished = []

        async def submit(number):
            await batcher.submit(LARGE)
            finished.append((number, len(model.batches)))

        await asyncio.gather(*(submit(number) for number in range(3)))
        assert finished == [(0, 3), (1, 6), (2, 9)]

    run(scenario, max_queued_tokens=1000)


def test_the_rest_of_a_cancelled_large_request_never_runs():
    async def scenario(batcher, model):
        large = asyncio.create_task(batcher.submit(LARGE))
        await settle()
        large.cancel()
        await settle()
        assert batcher.queued_tokens == 0
        model.gate.set()
        await batcher.submit([query("last")])
        assert model.batches == [["large 0", "large 1"], ["last"]]

    run(scenario, max_queued_tokens=1000)


def test_a_fault_in_a_slice_ends_its_request_alone():
    async def scenario(batcher, model):
        model.gate.set()
        requests = [[*LARGE[:3], query("bad", 20), *LARGE[4:]], [query("small")]]
        failed, small = await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)
        assert isinstance(failed, RuntimeError)
        assert small.predictions == ["small"]
        assert batcher.queued_tokens == 0

    run(scenario, max_queued_tokens=1000)


def test_a_lone_request_runs_at_once_and_alone():
    async def scenario(batcher, model):
        first = asyncio.create_task(batcher.submit([query("a")]))
        await settle()
        assert (model.batches, model.alone) == ([["a"]], [True])
        waiting = asyncio.create_task(batcher.submit([query("b")]))
        await asyncio.sleep(0.02)
        assert len(model.batches) == 1, "beside one that has all cores nothing runs"
        model.gate.set()
        await asyncio.gather(first, waiting)
        assert model.alone == [True, True]

    run(scenario, lanes=2)


def test_many_requests_are_shared_between_the_lanes():
    async def scenario(batcher, model):
        tasks = [asyncio.create_task(batcher.submit([query(str(number))])) for number in range(10)]
        await until(lambda: len(model.batches) == 2)
        assert [len(batch) for batch in model.batches] == [5, 5]
        assert model.alone == [False, False]
        model.gate.set()
        assert [served.predictions for served in await asyncio.gather(*tasks)] == [
            [str(number)] for number in range(10)
        ]

    run(scenario, lanes=2, max_rows=8)


def test_a_free_lane_beside_a_busy_one_takes_what_arrives_within_a_moment_together():
    now = [0.0]

    async def scenario(batcher, model):
        busy = asyncio.create_task(batcher.submit([query(f"busy {number}") for number in range(8)]))
        await settle()
        late = []
        for name in ("c", "d"):
            late.append(asyncio.create_task(batcher.submit([query(name)])))
            await asyncio.sleep(0.01)
        assert len(model.batches) == 1
        now[0] = 1.0
        await until(lambda: len(model.batches) == 2)
        assert model.batches[1] == ["c", "d"]
        model.gate.set()
        await asyncio.gather(busy, *late)

    run(scenario, lanes=2, max_rows=8, clock=lambda: now[0])


def test_a_cancelled_request_that_waits_is_never_run():
    async def scenario(batcher, model):
        running, waiting = (asyncio.create_task(batcher.submit([query(name)])) for name in ("a", "b"))
        await settle()
        last = asyncio.create_task(batcher.submit([query("c")]))
        await settle()
        waiting.cancel()
        await settle()
        assert batcher.queued_tokens == 4
        model.gate.set()
        await asyncio.gather(running, last)
        assert model.batches == [["a"], ["c"]] or model.batches == [["a", "b"], ["c"]]

    run(scenario, max_rows=1)


def test_a_full_queue_turns_a_request_away_with_a_time_to_wait():
    async def scenario(batcher, model):
        running = asyncio.create_task(batcher.submit([query("a")]))
        await settle()
        waiting = asyncio.create_task(batcher.submit([query("b", 90)]))
        await settle()
        with pytest.raises(ApiError) as caught:
            await batcher.submit([query("c", 20)])
        assert caught.value.status_code == 429
        assert int(caught.value.headers["retry-after"]) >= 1
        model.gate.set()
        await asyncio.gather(running, waiting)

    run(scenario)


def test_the_time_to_wait_is_that_of_the_tokens_at_the_pace_of_all_lanes():
    now = [0.0]

    async def scenario(batcher, model):
        timed = [asyncio.create_task(batcher.submit([query(str(number), 15)])) for number in range(16)]
        await until(lambda: len(model.batches) == 2)
        now[0] = 20.0  # two batches of 120 tokens: 12 tokens/s together
        model.gate.set()
        await asyncio.gather(*timed)
        model.gate.clear()
        waiting = [asyncio.create_task(batcher.submit([query("w", 30)])) for _ in range(30)]
        await until(lambda: len(model.batches) == 4)
        queued = batcher.queued_tokens
        with pytest.raises(ApiError) as caught:
            await batcher.submit([query("late", 1000)])
        wait_s = int(caught.value.headers["retry-after"])
        assert queued / 12 <= wait_s < queued / 12 * 1.25 + 1  # the mean over batches counts the last one's own pace
        model.gate.set()
        await asyncio.gather(*waiting)

    run(scenario, lanes=2, max_rows=8, max_tokens=1000, max_queued_tokens=1000, clock=lambda: now[0])


def test_a_request_beyond_the_whole_bound_is_let_in_when_nothing_waits():
    async def scenario(batcher, model):
        model.gate.set()
        assert (await batcher.submit([query("a", 500)])).predictions == ["a"]

    run(scenario)


def test_a_fault_reaches_the_requests_of_its_batch_and_no_other():
    async def scenario(batcher, model):
        model.gate.set()
        results = await asyncio.gather(
            *(batcher.submit([query(name)]) for name in ("ok", "bad", "fine")), return_exceptions=True
        )
        assert [type(result).__name__ for result in results] == ["InferenceResult", "RuntimeError", "InferenceResult"]

    run(scenario, max_rows=1)


def test_closing_cancels_what_waits():
    async def scenario(batcher, model):
        tasks = [asyncio.create_task(batcher.submit([query(name)])) for name in ("a", "b")]
        await settle()
        await batcher.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    run(scenario, max_rows=1)
