"""A client of HTTP/1.1 that costs little CPU: keep-alive connections, a request at a time on each, and their pool."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools


class Exchange:
    """One request and what became of it; times are of the generator's clock, in seconds.

    `status` stays 0 when no answer came, and `failure` says why: connect, reset, closed, timeout, malformed.
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
    """A keep-alive connection; `httptools` calls the `on_` methods."""

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
        """Puts a request on the wire."""
        exchange.connection, self._exchange = self, exchange
        self._parser, self._body, self._in_message = httptools.HttpResponseParser(self), [], False
        exchange.sent = self._pool.clock()
        self._transport.write(exchange.data)

    def data_received(self, data: bytes) -> None:
        try:
            if self._parser is None:
                raise httptools.HttpParserError("an answer that nobody asked for")
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end("malformed")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is None and self._exchange is not None and self._in_message:
            self._end("")  # an answer without length ends with its connection
        self._end("closed" if exc is None else "reset")
        self._pool.lost(self)

    def abort(self) -> None:
        """Drops the connection."""
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
        stays = self._parser.should_keep_alive()
        self._end("")
        if stays:
            self._pool.free(self)
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
    """Connections to one server: the one used last is used first, and a new one is opened when none is free.

    Args:
        most: connections at once; beyond them requests wait here.
        on_done: called with each exchange when it has ended, in whatever way.
        clock: seconds.
    """

    def __init__(
        self, host: str, port: int, *, most: int, on_done: Callable[[Exchange], None], clock: Callable[[], float]
    ) -> None:
        self.clock = clock
        self.opened = 0
        self._host, self._port, self._most, self._on_done = host, port, most, on_done
        self._free: list[Connection] = []
        self._waiting: deque[Exchange] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._running: dict[Exchange, None] = {}

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return len(self._running)

    def submit(self, exchange: Exchange) -> None:
        """Sends a request as soon as there is a connection for it."""
        self._running[exchange] = None
        if self._free:
            self._free.pop().send(exchange)
            return
        self._waiting.append(exchange)
        if self._open < self._most:
            self._open_another()

    def free(self, connection: Connection) -> None:
        """Takes a connection whose request has ended."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.done:
                connection.send(exchange)
                return
        self._free.append(connection)

    def lost(self, connection: Connection) -> None:
        """Forgets a connection that has ended, and opens another when requests wait for one."""
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)
        if self._waiting and self._open < self._most:
            self._open_another()

    def finish(self, exchange: Exchange, failure: str) -> None:
        """Ends an exchange."""
        exchange.done, exchange.failure = self.clock(), failure
        del self._running[exchange]
        self._on_done(exchange)

    def drop_older_than(self, seconds: float) -> None:
        """Ends as timed out what was to be sent so long ago, the oldest first."""
        limit = self.clock() - seconds
        for exchange in [each for each in self._running if each.scheduled <= limit]:
            connection = exchange.connection
            self.finish(exchange, "timeout")
            if connection is not None:
                connection.abort()

    async def close(self) -> None:
        """Drops all connections."""
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
        self.free(connection)
