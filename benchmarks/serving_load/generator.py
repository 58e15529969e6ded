"""A load generator in a process of its own: a plan as JSON on stdin, what came of it as JSON on stdout.

PYTHONPATH=platform:. python -m benchmarks.serving_load.generator < plan.json

Open loop (`phases`): requests go out by a schedule, whether the server answers or not, and their latency counts from
the moment at which they were to go out. Closed loop (`concurrency`): so many clients, each of which sends its next
request when the last has been answered. Protocols over uvloop and httptools; some 0.1 ms of CPU for a request.
"""

import asyncio
import itertools
import json
import math
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from benchmarks.serving_load.connection import Exchange, Pool
from benchmarks.serving_load.measurements import Measures

_SWEEP_S = 0.1


@dataclass
class Plan:
    """What to send; either `phases` or `concurrency`.

    Attributes:
        bodies: JSON texts, sent in turn.
        phases: (requests per second, seconds) of each phase of the open loop.
        poisson: random arrivals at that rate instead of even ones.
        concurrency: clients of the closed loop.
        seconds: of the closed loop, the first `warm_up_s` of which do not count.
        requests: ends the closed loop earlier, after so many.
        timeout_s: after which a request counts as failed.
        trace: give a row for every request too.
    """

    port: int
    bodies: Sequence[str]
    phases: Sequence[tuple[float, float]] = ()
    poisson: bool = False
    concurrency: int = 0
    seconds: float = 10.0
    warm_up_s: float = 0.0
    requests: int | None = None
    timeout_s: float = 30.0
    connections: int = 1024
    host: str = "127.0.0.1"
    path: str = "/v1/fill-mask"
    top_k: int = 5
    seed: int = 0
    trace: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def run_plan(plan: Plan) -> dict[str, Any]:
    """Runs a plan in a fresh process and returns what it measured."""
    command = [sys.executable, "-m", "benchmarks.serving_load.generator"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Load:
    """One run of a plan on the running event loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = [_request(plan, body.encode()) for body in plan.bodies]
        self._measures = Measures(top_k=plan.top_k)
        self._epoch, self._zero = time.time(), time.perf_counter()
        self._pool = Pool(plan.host, plan.port, most=plan.connections, on_done=self._ended, clock=self._clock)
        self._sent = 0
        self._sending = True

    async def run(self) -> dict[str, Any]:
        """Sends all of it, waits for the answers, and returns what was measured."""
        sweeping = asyncio.get_running_loop().create_task(self._sweep())
        begun = _cpu_seconds()
        if self._plan.phases:
            edges = await self._open_loop()
        else:
            edges = await self._closed_loop()
        self._sending = False
        while self._pool.running:
            await asyncio.sleep(0.01)
        used = _cpu_seconds() - begun
        sweeping.cancel()
        await self._pool.close()
        return self._result(edges, used)

    async def _open_loop(self) -> list[float]:
        schedule, edges = _arrivals(self._plan)
        for phase, moment in schedule:
            wait = moment - self._clock()
            if wait > 0:
                await asyncio.sleep(math.ceil(wait * 1000) / 1000)  # the loop's timers count whole milliseconds
            self._submit(phase, moment)
        await asyncio.sleep(max(0.0, edges[-1] - self._clock()))
        return edges

    async def _closed_loop(self) -> list[float]:
        for _ in range(self._plan.concurrency):
            self._next_of_client()
        end = self._plan.seconds
        while self._sending and self._clock() < end:
            await asyncio.sleep(min(0.05, max(0.001, end - self._clock())))
        return [self._plan.warm_up_s, self._clock()]

    def _next_of_client(self) -> None:
        if self._plan.requests is not None and self._sent >= self._plan.requests:
            self._sending = False
        if self._sending:
            now = self._clock()
            self._submit(-1 if now < self._plan.warm_up_s else 0, now)

    def _submit(self, phase: int, scheduled: float) -> None:
        data = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        self._pool.submit(Exchange(data, phase, scheduled))

    def _ended(self, exchange: Exchange) -> None:
        failed = bool(exchange.failure)
        self._measures.add(exchange)
        if self._plan.concurrency and self._sending:
            loop = asyncio.get_running_loop()
            if failed:
                loop.call_later(0.02, self._next_of_client)  # a client that could not connect does not spin
            else:
                loop.call_soon(self._next_of_client)  # not at once: the connection is free only after this

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._pool.drop_older_than(self._plan.timeout_s)

    def _clock(self) -> float:
        return time.perf_counter() - self._zero

    def _result(self, edges: Sequence[float], cpu_s: float) -> dict[str, Any]:
        phases = [
            self._measures.phase(number, start, end) for number, (start, end) in enumerate(itertools.pairwise(edges))
        ]
        return {
            "started_at": self._epoch,
            "phases": phases,
            "sent": self._sent,
            "connections_opened": self._pool.opened,
            "faults": dict(self._measures.faults),
            "samples": self._measures.samples,
            "series": self._measures.series(),
            "cpu_s": round(cpu_s, 3),
            "cpu_ms_per_request": round(cpu_s * 1000 / max(self._sent, 1), 4),
            **({"trace": self._measures.rows} if self._plan.trace else {}),
        }


def _arrivals(plan: Plan) -> tuple[Iterator[tuple[int, float]], list[float]]:
    """Phase and moment of each request, and the edges of the phases."""
    edges = [0.0]
    for _, seconds in plan.phases:
        edges.append(edges[-1] + seconds)

    def moments() -> Iterator[tuple[int, float]]:
        rng = random.Random(plan.seed)
        for phase, (rate, seconds) in enumerate(plan.phases):
            moment = edges[phase]
            for number in range(round(rate * seconds)):
                moment = moment + rng.expovariate(rate) if plan.poisson else edges[phase] + number / rate
                if moment < edges[phase + 1]:
                    yield phase, moment

    return moments(), edges


def _request(plan: Plan, body: bytes) -> bytes:
    headers = {"host": f"{plan.host}:{plan.port}", "content-type": "application/json", **plan.headers}
    lines = [f"POST {plan.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Reads a plan, runs it, writes the result."""
    plan = Plan(**json.load(sys.stdin))
    json.dump(uvloop.run(Load(plan).run()), sys.stdout)


if __name__ == "__main__":
    main()
