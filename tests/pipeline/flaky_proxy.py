"""TCP proxy for a dashboard that interrupts log streams, like an unreliable network."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

LOG_STREAM = b"/logs/tail"


@dataclass
class FlakyProxy:
    """Forwards connections to `target`, and resets those that request a log after `life_s` seconds.

    Attributes:
        streams: number of connections that requested a log.
        cuts: number of open log connections that were reset.
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
            request = client.recv(65536)
            is_log = LOG_STREAM in request.partition(b"\r\n")[0]
            if is_log:
                self.streams += 1
                threading.Timer(self.life_s, self._cut, (client, server)).start()
            server.sendall(request)
            backward = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            backward.start()
            self._forward(client, server)
            backward.join()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _cut(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                self.cuts += end is ends[0]


@contextlib.contextmanager
def flaky_proxy(address: str, *, life_s: float) -> Iterator[FlakyProxy]:
    """Run a proxy for an http address until the block ends."""
    host, _, port = address.removeprefix("http://").partition(":")
    proxy = FlakyProxy((host, int(port)), life_s)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.listener.close()
