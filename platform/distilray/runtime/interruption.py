"""Ctrl-C and SIGTERM that no library can lose.

Python raises `KeyboardInterrupt` wherever the main thread is, and code that swallows it (a finaliser, a callback of
C code) makes it vanish. So the signal is remembered too, and long work asks for it between two pieces.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_requested = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Remembers SIGINT and SIGTERM while the block runs; both raise `KeyboardInterrupt` in it."""
    _requested.clear()
    previous = {number: signal.signal(number, _remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _requested.clear()


def raise_if_interrupted() -> None:
    """Raises the interrupt that came and was lost.

    Raises:
        KeyboardInterrupt: in the main thread, when a signal came since the block began.
    """
    if _requested.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _remember(number: int, frame: object) -> None:
    _requested.set()
    raise KeyboardInterrupt
