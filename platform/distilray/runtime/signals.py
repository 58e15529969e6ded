"""Reliable handling of Ctrl-C and SIGTERM, even if a library swallows the interrupt or native code is running.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. If that is a finalizer or a callback of C
code, the exception is lost. Therefore the signal is also recorded, and long work polls for it between pieces. Python
raises nothing while the main thread executes native code, so such work runs in another thread.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_received = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Record SIGINT and SIGTERM while the block runs. Both raise `KeyboardInterrupt`."""
    _received.clear()
    previous = {number: signal.signal(number, _record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _received.clear()


def raise_if_interrupted() -> None:
    """Raise the `KeyboardInterrupt` of a signal if a library has swallowed it.

    Raises:
        KeyboardInterrupt: in the main thread, if a signal was received inside the current `interruptible` block.
    """
    if _received.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def start_in_thread(function: Callable[[], T], *, name: str) -> Future[T]:
    """Run a function in a daemon thread, which does not keep the process alive, and return its future."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


def run_interruptibly(function: Callable[[], T], *, name: str) -> T:
    """Run a function in a thread, so that this thread can receive signals, and return its result.

    Raises:
        KeyboardInterrupt: a signal was received. The function is not stopped.
    """
    return start_in_thread(function, name=name).result()


def _record(number: int, frame: object) -> None:
    _received.set()
    raise KeyboardInterrupt
