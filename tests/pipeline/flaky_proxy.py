"""A TCP proxy before a dashboard that cuts every stream of a log after a while, as a bad network does."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

LOG_STREAM = b"/logs/tail"


@dataclass
class FlakyProxy:
    """Forwards to `target`; a connection that asks for a log is reset `life_s` seconds later.

    Attributes:
        streams: connections that asked for a log.
        cuts: those that were cut while they were open.
    """

    target: tuple[str, int]
    life_s: float
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    streams: int = 0
    cuts: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve_one, args=(client,), daemon=True).start()

    def _serve_one(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server, contextlib.suppress(OSError):
            asked = client.recv(65536)
            is_log = LOG_STREAM in asked.partition(b"\r\n")[0]
            if is_log:
                self.streams += 1
                threading.Timer(self.life_s, self._cut, (client, server)).start()
            server.sendall(asked)
            back = threading.Thread(target=self._carry, args=(server, client), daemon=True)
            back.start()
            self._carry(client, server)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _cut(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                self.cuts += end is ends[0]


@contextlib.contextmanager
def flaky_proxy(address: str, *, life_s: float) -> Iterator[FlakyProxy]:
    """A proxy before an http address, as long as the block lasts."""
    host, _, port = address.removeprefix("http://").partition(":")
    proxy = FlakyProxy((host, int(port)), life_s)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.listener.close()
