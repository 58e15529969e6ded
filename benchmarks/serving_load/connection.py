"""HTTP/1.1 client with little CPU overhead: a pool of keep-alive connections with one request at a time each."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools


class Exchange:
    """A request and its response; times are in seconds on the generator's clock.

    If there is no response, `status` is 0 and `failure` is the reason: connect, reset, closed, timeout or malformed.
    """

    __slots__ = ("body", "connection", "data", "done", "failure", "headers", "phase", "scheduled", "sent", "status")

    def __init__(self, data: bytes, phase: int, scheduled: float) -> None:
        self.data, self.phase, self.scheduled = data, phase, scheduled
        self.sent = self.done = 0.0
        self.status, self.failure = 0, ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.connection: Connection | None = None


class Connection(asyncio.Protocol):
    """Keep-alive connection; `httptools` calls the `on_` methods."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: Any = None
        self._exchange: Exchange | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self._in_message = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, exchange: Exchange) -> None:
        exchange.connection, self._exchange = self, exchange
        self._parser, self._body, self._in_message = httptools.HttpResponseParser(self), [], False
        exchange.sent = self._pool.clock()
        self._transport.write(exchange.data)

    def data_received(self, data: bytes) -> None:
        try:
            if self._parser is None:
                raise httptools.HttpParserError("response without a request")
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end("malformed")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is None and self._exchange is not None and self._in_message:
            self._end("")  # a response without length ends with its connection
        self._end("closed" if exc is None else "reset")
        self._pool.remove(self)

    def abort(self) -> None:
        """Close the connection immediately."""
        if self._transport is not None:
            self._transport.abort()

    def on_status(self, status: bytes) -> None:
        pass

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._exchange is not None
        self._exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_message = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        keep_alive = self._parser.should_keep_alive()
        self._end("")
        if keep_alive:
            self._pool.release(self)
        else:
            self._transport.close()

    def _end(self, failure: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.done:
            return
        if not failure:
            exchange.status, exchange.body = self._parser.get_status_code(), b"".join(self._body)
        self._pool.finish(exchange, failure)


class Pool:
    """Pool of connections to one server; prefers the most recently used one, and opens another if none is free.

    Args:
        max_connections: limit of open connections, above which requests wait in the pool.
        on_done: called with each finished or failed exchange.
        clock: time in seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        max_connections: int,
        on_done: Callable[[Exchange], None],
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.opened = 0
        self._host, self._port, self._max_connections, self._on_done = host, port, max_connections, on_done
        self._free: list[Connection] = []
        self._waiting: deque[Exchange] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._running: dict[Exchange, None] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, exchange: Exchange) -> None:
        """Send a request as soon as a connection is available."""
        self._running[exchange] = None
        if self._free:
            self._free.pop().send(exchange)
            return
        self._waiting.append(exchange)
        if self._open < self._max_connections:
            self._open_another()

    def release(self, connection: Connection) -> None:
        """Return a connection to the pool."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.done:
                connection.send(exchange)
                return
        self._free.append(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection, and open another if requests are waiting."""
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)
        if self._waiting and self._open < self._max_connections:
            self._open_another()

    def finish(self, exchange: Exchange, failure: str) -> None:
        exchange.done, exchange.failure = self.clock(), failure
        del self._running[exchange]
        self._on_done(exchange)

    def time_out_older_than(self, seconds: float) -> None:
        """Fail all exchanges scheduled longer ago, the oldest first."""
        limit = self.clock() - seconds
        for exchange in [each for each in self._running if each.scheduled <= limit]:
            connection = exchange.connection
            self.finish(exchange, "timeout")
            if connection is not None:
                connection.abort()

    async def close(self) -> None:
        for connection in list(self._free):
            connection.abort()
        await asyncio.gather(*self._tasks)

    def _open_another(self) -> None:
        self._open += 1
        task = asyncio.get_running_loop().create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            self._open -= 1
            while self._waiting:
                exchange = self._waiting.popleft()
                if not exchange.done:
                    self.finish(exchange, "connect")
                    break
            return
        self.opened += 1
        self.release(connection)
