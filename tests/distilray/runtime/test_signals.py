import contextlib
import os
import signal
import threading

import pytest

from distilray.runtime.progress import Progress
from distilray.runtime.signals import interruptible, raise_if_interrupted, run_interruptibly


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_where_it_comes(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)


def test_a_signal_that_was_swallowed_is_raised_at_the_next_step() -> None:
    with interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), Progress("work", total=2, unit="steps") as progress:
            progress.advance_to(1)


def test_other_threads_are_not_interrupted() -> None:
    with interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                raise_if_interrupted()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert raised == []


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible():
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_new_block_knows_nothing_of_the_last() -> None:
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    with interruptible():
        raise_if_interrupted()


def test_after_a_block_that_was_interrupted_other_work_goes_on() -> None:
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    raise_if_interrupted()


def test_a_signal_interrupts_the_wait_for_a_function_that_does_not_end() -> None:
    ended = threading.Event()

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait()

    with pytest.raises(KeyboardInterrupt), interruptible():
        run_interruptibly(hang, name="hang")
    ended.set()


def test_the_error_of_a_function_in_a_thread_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 / 0, name="fail")


def test_the_main_thread_is_left_to_signals() -> None:
    assert run_interruptibly(threading.current_thread, name="other") is not threading.main_thread()
