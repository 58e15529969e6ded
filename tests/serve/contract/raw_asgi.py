"""Requests passed to an ASGI application message by message, without normalization by a client library."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

JSON = ((b"content-type", b"application/json"),)
DISCONNECT = {"type": "http.disconnect"}


@dataclass(frozen=True)
class Reply:
    """Response, with status 0 if there was none; `read` is the number of messages that the application received."""

    status_code: int
    headers: dict[str, str]
    content: bytes
    read: int

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


def parts(*pieces: bytes) -> list[dict[str, Any]]:
    """Return a body as messages, the last one marked as such."""
    last = len(pieces) - 1
    return [{"type": "http.request", "body": piece, "more_body": at < last} for at, piece in enumerate(pieces)]


async def ask(
    api: Any,
    messages: Iterable[dict[str, Any]],
    *,
    path: str = "/v1/fill-mask",
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = JSON,
) -> Reply:
    """Send a request and return the response; after the last message, the client waits silently."""
    sent: list[dict[str, Any]] = []
    pending, read = iter(messages), 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        message = next(pending, None)
        if message is None:
            await asyncio.sleep(60)
        read += 1
        return message or DISCONNECT

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "state": {},
    }
    await api(scope, receive, send)
    if not sent:
        return Reply(0, {}, b"", read)
    names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], names, b"".join(message.get("body", b"") for message in sent[1:]), read)
