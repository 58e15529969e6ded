import contextlib
import os
import signal
import threading

import pytest

from distilray.runtime.progress import Progress
from distilray.runtime.signals import interruptible, raise_if_interrupted, run_interruptibly


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def swallowed_interrupt():
    with interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            interrupt()
        yield


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_and_its_handler_is_restored_after_the_block(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        interrupt(number)
    assert signal.getsignal(number) == before


def test_a_signal_that_a_library_swallowed_is_raised_at_the_next_step():
    with swallowed_interrupt(), pytest.raises(KeyboardInterrupt), Progress("work", total=2, unit="steps") as progress:
        progress.advance_to(1)


def test_other_threads_are_not_interrupted():
    with swallowed_interrupt():
        run_interruptibly(raise_if_interrupted, name="other")


def test_a_signal_is_forgotten_after_its_block():
    with swallowed_interrupt():
        pass
    raise_if_interrupted()
    with interruptible():
        raise_if_interrupted()


def test_a_signal_interrupts_the_wait_for_a_function_that_hangs():
    ended = threading.Event()

    def hang():
        interrupt()
        ended.wait()

    with pytest.raises(KeyboardInterrupt), interruptible():
        run_interruptibly(hang, name="hang")
    ended.set()


def test_a_function_runs_in_another_thread_which_returns_its_result_or_error():
    assert run_interruptibly(threading.current_thread, name="other").name == "other"
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 / 0, name="fail")
