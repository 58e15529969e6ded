import asyncio
import json
import socket

import pytest
import uvloop

from benchmarks.serving_load.generator import Load, Plan, run_plan

RIGHT = json.dumps([{"score": 0.5, "token": 7, "token_str": "a", "sequence": "a"}] * 5).encode()
ENVELOPE = json.dumps({"error": "full", "error_type": "Overloaded", "request_id": "1"}).encode()


def answer(status, body, *headers):
    lines = [f"HTTP/1.1 {status} X", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Server:
    """Responds to the n-th request with the result of `behavior(n)`: bytes to send, or None to reset the connection."""

    def __init__(self, behavior):
        self.behavior, self.requests, self.connections = behavior, 0, 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                json.loads(await reader.readexactly(length))
                self.requests += 1
                response = self.behavior(self.requests)
                response = await response if asyncio.iscoroutine(response) else response
                if response is None:
                    linger_off = b"\x01\0\0\0\0\0\0\0"  # closing sends a reset
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
                    writer.transport.abort()
                    return
                writer.write(response)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def run(behavior, **plan):
    async def both():
        async with Server(behavior) as server:
            load = Load(Plan(port=server.port, bodies=['{"inputs": "a [MASK]"}', '{"inputs": "[MASK]"}'], **plan))
            return server, await load.run()

    return uvloop.run(both())


def test_responses_are_counted_by_status_and_wrong_ones_by_their_error():
    kinds = [
        answer(200, RIGHT),
        answer(429, ENVELOPE, "Retry-After: 1"),
        answer(429, ENVELOPE),
        answer(429, b"busy", "Retry-After: 1"),
        answer(200, b"[]"),
        answer(503, b"down", "connection: close"),
    ]

    server, result = run(lambda number: kinds[number - 1], concurrency=1, requests=6, timeout_s=1)
    (phase,) = result["phases"]
    assert phase["outcomes"] == {"200": 1, "429": 3, "wrong": 1, "503": 1}
    assert set(result["faults"]) == {
        "429: no Retry-After of 1 s or more",
        "429: not JSON",
        "200: unexpected candidates",
    }
    assert [sample["outcome"] for sample in result["samples"]][-1] == "503"
    assert server.requests == result["sent"] == 6
    _, result = run(lambda _: b"nonsense\r\n\r\n", concurrency=1, requests=1)
    assert result["phases"][0]["outcomes"] == {"malformed": 1}


def test_clients_reuse_their_connections():
    server, result = run(lambda _: answer(200, RIGHT), concurrency=4, seconds=0.2)
    assert result["phases"][0]["outcomes"] == {"200": server.requests}
    assert server.connections == result["connections_opened"] == 4
    assert server.requests > 4


def test_the_warm_up_does_not_count():
    server, result = run(lambda _: answer(200, RIGHT), concurrency=1, seconds=0.4, warm_up_s=0.1)
    assert 0 < result["phases"][0]["sent"] < server.requests == result["sent"]


@pytest.mark.parametrize("poisson", [False, True])
def test_an_open_loop_keeps_its_schedule_while_the_server_stalls(poisson):
    async def stall(number):
        if number <= 20:
            await asyncio.sleep(0.3 if number == 1 else 0.2)
        return answer(200, RIGHT)

    server, result = run(stall, phases=[(200, 0.4)], poisson=poisson, trace=True)
    assert result["phases"][0]["outcomes"] == {"200": server.requests}
    assert 40 <= server.requests <= 120 if poisson else server.requests == 80
    assert result["phases"][0]["lag_ms"]["p50"] < 200  # it did not wait for the stalled responses
    latencies = [done - scheduled for _, scheduled, _, done, _ in result["trace"]]
    assert max(latencies) > 0.29
    if not poisson:
        scheduled = [row[1] for row in sorted(result["trace"], key=lambda row: row[1])]
        assert all(abs(moment - number / 200) < 1e-6 for number, moment in enumerate(scheduled))


def test_latency_counts_from_the_schedule_when_there_are_too_few_connections():
    async def slow(_):
        await asyncio.sleep(0.02)
        return answer(200, RIGHT)

    _, result = run(slow, phases=[(100, 0.1)], connections=1)
    phase = result["phases"][0]
    assert phase["outcomes"] == {"200": 10}
    assert phase["latency_ms"]["max"] > 100  # ten in turn, though each takes 20 ms
    assert phase["goodput"] < 60  # only responses that arrived while requests were still sent


def test_resets_and_timeouts_are_counted_and_lost_connections_are_replaced():
    async def odd(number):
        if number % 4 == 1:
            return None
        if number % 4 == 2:
            await asyncio.sleep(5)
        return answer(200, RIGHT)

    server, result = run(odd, phases=[(100, 0.2)], timeout_s=0.3)
    assert result["phases"][0]["outcomes"] == {"reset": 5, "timeout": 5, "200": 10}
    assert server.connections >= 10


def test_an_unreachable_server_is_an_error_and_not_a_crash():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        plan = Plan(port=listener.getsockname()[1], bodies=["{}"], phases=[(50, 0.1)])
        result = run_plan(plan)
    assert result["phases"][0]["outcomes"] == {"connect": 5}


def test_each_phase_has_its_own_measurements():
    _, result = run(lambda _: answer(200, RIGHT), phases=[(50, 0.2), (200, 0.1)])
    assert [phase["sent"] for phase in result["phases"]] == [10, 20]
    assert sum(row["ok"] for row in result["series"]) == 30
