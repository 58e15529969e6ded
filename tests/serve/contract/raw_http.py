"""HTTP/1.1 over plain sockets, for requests that client libraries do not send, and to measure what the server reads."""

import contextlib
import http.client
import json
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 45.0
INTERIM = b"HTTP/1.1 1"
CHUNK = 65_536


@dataclass(frozen=True)
class Reply:
    """Response; `sent` is the number of bytes (in `raw_asgi`: messages) of the body sent before it started."""

    status_code: int
    headers: dict[str, str]
    content: bytes
    sent: int
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), address.port), timeout=TIMEOUT_S) as opened:
        yield opened


def head(path: str, headers: dict[str, str], *, method: str = "POST", version: str = "1.1") -> bytes:
    """Return request line and headers."""
    lines = [f"{method} {path} HTTP/{version}", "host: test", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(url: str, path: str, body: bytes, **headers: str) -> Reply:
    """Send a JSON body with its length, and return the response."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"content-type": "application/json", "content-length": str(len(body)), **named}
    return exchange(url, head(path, named), [body])


def chunked(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Encode a body with chunked transfer encoding."""
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def exchange(url: str, request_head: bytes, body: Iterable[bytes] = (), *, pause_s: float = 0.0) -> Reply:
    """Send until the server responds or closes, with a pause after every 64 kB, and read the complete response."""
    start, sent, content = time.monotonic(), 0, b""
    with connection(url) as opened:
        opened.sendall(request_head)
        with contextlib.suppress(ConnectionError):  # a server may stop reading once it has responded
            for chunk in (part[at : at + CHUNK] for part in body for at in range(0, len(part), CHUNK)):
                if _has_answered(opened):
                    break
                opened.sendall(chunk)
                sent += len(chunk)
                time.sleep(pause_s)
        response = http.client.HTTPResponse(opened)
        response.begin()
        with contextlib.suppress(ConnectionError, http.client.IncompleteRead):
            content = response.read()
        headers = {name.lower(): ", ".join(response.headers.get_all(name, [])) for name in response.headers}
        return Reply(response.status, headers, content, sent, time.monotonic() - start)


def _has_answered(opened: socket.socket) -> bool:
    """Return whether a response has started, except `100 Continue`, which requests the body."""
    is_readable = bool(select.select([opened], [], [], 0)[0])
    return is_readable and opened.recv(len(INTERIM), socket.MSG_PEEK) != INTERIM
