"""HTTP/1.1 by hand over a socket: what no client library sends, and how much of it the server took."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 45.0
INTERIM = b"HTTP/1.1 1"
CHUNK = 65_536


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        headers: by their names in lower case.
        sent: bytes of the body that the server had taken when its answer began.
        seconds: from the first byte sent to the last received.
    """

    status_code: int
    headers: dict[str, str]
    content: bytes
    sent: int
    seconds: float

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """An open connection to a server."""
    place = urlsplit(url)
    with socket.create_connection((str(place.hostname), place.port), timeout=PATIENCE_S) as opened:
        yield opened


def head(path: str, headers: dict[str, str], *, method: str = "POST", version: str = "1.1") -> bytes:
    """Request line and headers."""
    lines = [f"{method} {path} HTTP/{version}", "host: test", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(url: str, path: str, body: bytes, **headers: str) -> Reply:
    """The answer to a JSON body with its length."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"content-type": "application/json", "content-length": str(len(body)), **named}
    return exchange(url, head(path, named), [body])


def chunked(parts: Iterable[bytes]) -> Iterator[bytes]:
    """A body in HTTP's chunks, which has no length."""
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def exchange(url: str, request_head: bytes, body: Iterable[bytes] = (), *, pause_s: float = 0.0) -> Reply:
    """Sends until the server answers or closes, with a pause after every 64 kB, and reads the answer to its end."""
    began, sent = time.monotonic(), 0
    with connection(url) as opened:
        opened.sendall(request_head)
        with contextlib.suppress(ConnectionError):  # a server that has answered need not read on
            for piece in (part[at : at + CHUNK] for part in body for at in range(0, len(part), CHUNK)):
                if _has_answered(opened):
                    break
                opened.sendall(piece)
                sent += len(piece)
                time.sleep(pause_s)
        return _read(opened, sent, began)


def _has_answered(opened: socket.socket) -> bool:
    """Return whether an answer has begun, other than `100 Continue`, which asks for the body."""
    is_readable = bool(select.select([opened], [], [], 0)[0])
    return is_readable and opened.recv(len(INTERIM), socket.MSG_PEEK) != INTERIM


def _read(opened: socket.socket, sent: int, began: float) -> Reply:
    raw = b""
    while True:
        while b"\r\n\r\n" not in raw:
            raw += _some(opened)
        top, _, content = raw.partition(b"\r\n\r\n")
        status_line, *lines = top.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        if status >= 200:
            break
        raw = content  # what came was leave to go on
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    with contextlib.suppress(EOFError):
        while not _is_whole(headers, content):
            content += _some(opened)
    return Reply(status, headers, content, sent, time.monotonic() - began)


def _is_whole(headers: dict[str, str], content: bytes) -> bool:
    if "content-length" in headers:
        return len(content) >= int(headers["content-length"])
    return headers.get("transfer-encoding") == "chunked" and content.endswith(b"0\r\n\r\n")


def _some(opened: socket.socket) -> bytes:
    try:
        received = opened.recv(CHUNK)
    except ConnectionResetError:
        received = b""
    if not received:
        raise EOFError("the server closed the connection")
    return received
