"""Requests passed to an ASGI application message by message, without normalization by a client library."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from tests.serve.contract.raw_http import Reply

JSON = ((b"content-type", b"application/json"),)
DISCONNECT = {"type": "http.disconnect"}


def parts(*pieces: bytes) -> list[dict[str, Any]]:
    """Return a body as messages, the last one marked as such."""
    last = len(pieces) - 1
    return [{"type": "http.request", "body": piece, "more_body": at < last} for at, piece in enumerate(pieces)]


def scope_of(path: str, *, method: str = "POST", root: str = "", headers: Sequence[tuple[bytes, bytes]] = JSON) -> Any:
    names = {"type": "http", "http_version": "1.1", "method": method, "path": path, "root_path": root}
    return {**names, "raw_path": path.encode(), "query_string": b"", "headers": list(headers), "state": {}}


async def ask(api: Any, messages: Iterable[dict[str, Any]], *, path: str = "/v1/fill-mask", **request: Any) -> Reply:
    """Send a request and return the response, with status 0 if there is none.

    After the last message, the client waits silently.
    """
    received: list[dict[str, Any]] = []
    pending, sent = iter(messages), 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        message = next(pending, None)
        if message is None:
            await asyncio.sleep(60)
        sent += 1
        return message or DISCONNECT

    async def send(message: dict[str, Any]) -> None:
        received.append(message)

    await api(scope_of(path, **request), receive, send)
    if not received:
        return Reply(0, {}, b"", sent)
    headers = {name.decode(): value.decode() for name, value in received[0]["headers"]}
    return Reply(received[0]["status"], headers, b"".join(each.get("body", b"") for each in received[1:]), sent)
