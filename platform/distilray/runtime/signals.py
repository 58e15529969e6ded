"""Ctrl-C and SIGTERM that no library can lose, also while native code runs.

Python raises `KeyboardInterrupt` wherever the main thread is, and code that swallows it (a finaliser, a callback of
C code) makes it vanish. So the signal is remembered too, and long work asks for it between two pieces. While the main
thread is inside native code nothing is raised at all, so such work runs in another thread.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_requested = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Remember SIGINT and SIGTERM while the block runs; both raise `KeyboardInterrupt` in it."""
    _requested.clear()
    previous = {number: signal.signal(number, _remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _requested.clear()


def raise_if_interrupted() -> None:
    """Raise the interrupt that came and was lost.

    Raises:
        KeyboardInterrupt: in the main thread, when a signal came since the block began.
    """
    if _requested.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def start_in_thread(function: Callable[[], T], *, name: str) -> Future[T]:
    """Run a function in a daemon thread, which the end of the process does not wait for, and return its result."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


def run_interruptibly(function: Callable[[], T], *, name: str) -> T:
    """Return the result of a function that runs in a thread, so that signals reach this one.

    Raises:
        KeyboardInterrupt: a signal came. The function is left to end by itself.
    """
    return start_in_thread(function, name=name).result()


def _remember(number: int, frame: object) -> None:
    _requested.set()
    raise KeyboardInterrupt
