"""Waiting for conditions."""

import asyncio
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str = "the condition", seconds: float = 30.0) -> None:
    """Wait for a condition; `what` describes it in the error."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timeout: {what}"
        time.sleep(0.01)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition in an event loop."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)
