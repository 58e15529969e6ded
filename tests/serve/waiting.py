"""Waiting until something is so."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str = "the condition", seconds: float = 30.0) -> None:
    """Returns when the condition holds; `what` names it where it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.01)
