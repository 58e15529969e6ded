"""Load generator process: reads a plan as JSON from stdin, and writes the results as JSON to stdout.

PYTHONPATH=platform:. python -m benchmarks.serving_load.generator < plan.json

Open loop (`phases`): requests follow a schedule, whether or not the server responds, and their latency is measured from
the scheduled time. Closed loop (`concurrency`): each client sends its next request after the response to the previous
one. Based on uvloop and httptools; takes about 0.1 ms of CPU time per request.
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
from benchmarks.serving_load.measurements import Measurements

_TIMEOUT_CHECK_S = 0.1


@dataclass
class Plan:
    """Load to generate, with either `phases` or `concurrency`.

    Attributes:
        bodies: JSON texts, sent in turn.
        phases: (requests per second, seconds) of each phase of the open loop.
        poisson: random instead of evenly spaced arrivals.
        concurrency: number of clients of the closed loop.
        seconds: duration of the closed loop, including `warm_up_s`, which is not measured.
        requests: end the closed loop after this number of requests.
        timeout_s: time limit of a request.
        trace: also return one row per request.
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
    """Run a plan in a new process, and return the measurements."""
    command = [sys.executable, "-m", "benchmarks.serving_load.generator"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Load:
    """Run of a plan on the current event loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = [_request(plan, body.encode()) for body in plan.bodies]
        self._measurements = Measurements(top_k=plan.top_k)
        self._epoch, self._zero = time.time(), time.perf_counter()
        self._pool = Pool(
            plan.host, plan.port, max_connections=plan.connections, on_done=self._finish, clock=self._clock
        )
        self._sent = 0
        self._sending = True

    async def run(self) -> dict[str, Any]:
        """Send all requests, wait for the responses, and return the measurements."""
        timeouts = asyncio.get_running_loop().create_task(self._watch_timeouts())
        start_cpu_s = _cpu_seconds()
        if self._plan.phases:
            edges = await self._open_loop()
        else:
            edges = await self._closed_loop()
        self._sending = False
        while self._pool.running:
            await asyncio.sleep(0.01)
        cpu_s = _cpu_seconds() - start_cpu_s
        timeouts.cancel()
        await self._pool.close()
        return self._result(edges, cpu_s)

    async def _open_loop(self) -> list[float]:
        schedule, edges = _arrivals(self._plan)
        for phase, moment in schedule:
            wait = moment - self._clock()
            if wait > 0:
                await asyncio.sleep(math.ceil(wait * 1000) / 1000)  # the event loop has timers of whole milliseconds
            self._submit(phase, moment)
        await asyncio.sleep(max(0.0, edges[-1] - self._clock()))
        return edges

    async def _closed_loop(self) -> list[float]:
        for _ in range(self._plan.concurrency):
            self._send_next()
        end = self._plan.seconds
        while self._sending and self._clock() < end:
            await asyncio.sleep(min(0.05, max(0.001, end - self._clock())))
        return [self._plan.warm_up_s, self._clock()]

    def _send_next(self) -> None:
        if self._plan.requests is not None and self._sent >= self._plan.requests:
            self._sending = False
        if self._sending:
            now = self._clock()
            self._submit(-1 if now < self._plan.warm_up_s else 0, now)

    def _submit(self, phase: int, scheduled: float) -> None:
        data = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        self._pool.submit(Exchange(data, phase, scheduled))

    def _finish(self, exchange: Exchange) -> None:
        failed = bool(exchange.failure)
        self._measurements.add(exchange)
        if self._plan.concurrency and self._sending:
            loop = asyncio.get_running_loop()
            if failed:
                loop.call_later(0.02, self._send_next)  # avoid a busy loop if the server is unreachable
            else:
                loop.call_soon(self._send_next)  # the connection becomes free after this callback

    async def _watch_timeouts(self) -> None:
        while True:
            await asyncio.sleep(_TIMEOUT_CHECK_S)
            self._pool.time_out_older_than(self._plan.timeout_s)

    def _clock(self) -> float:
        return time.perf_counter() - self._zero

    def _result(self, edges: Sequence[float], cpu_s: float) -> dict[str, Any]:
        phases = [
            self._measurements.phase(number, start, end)
            for number, (start, end) in enumerate(itertools.pairwise(edges))
        ]
        return {
            "started_at": self._epoch,
            "phases": phases,
            "sent": self._sent,
            "connections_opened": self._pool.opened,
            "faults": dict(self._measurements.faults),
            "samples": self._measurements.samples,
            "series": self._measurements.series(),
            "cpu_s": round(cpu_s, 3),
            "cpu_ms_per_request": round(cpu_s * 1000 / max(self._sent, 1), 4),
            **({"trace": self._measurements.rows} if self._plan.trace else {}),
        }


def _arrivals(plan: Plan) -> tuple[Iterator[tuple[int, float]], list[float]]:
    """Return phase and scheduled time of each request, and the boundaries of the phases."""
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
    plan = Plan(**json.load(sys.stdin))
    json.dump(uvloop.run(Load(plan).run()), sys.stdout)


if __name__ == "__main__":
    main()
