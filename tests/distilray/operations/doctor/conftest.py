import threading
import time
from collections.abc import Callable, Iterator

import pytest

from distilray.operations.doctor.check import has_hanging_check


@pytest.fixture
def hang() -> Iterator[Callable[..., bool]]:
    """Function that returns only after the test, like a request to a server that never answers."""
    end = threading.Event()

    def wait(*_: object) -> bool:
        return end.wait()

    yield wait
    end.set()
    while has_hanging_check():
        time.sleep(0.01)
