"""Machines that are about to be taken away, of which the cloud tells Ray, and Ray the workers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

# Until Ray has missed a machine that went without a word: several health checks.
MISSED_S = 60.0


class GoingMachines:
    """What a worker knows of the machines of its run that are about to go.

    Args:
        ask: what Ray knows, as a `PreemptionInfo` or None; workers ask together, since they answer together.
        every_steps: how often they ask.
    """

    def __init__(
        self, ask: Callable[[], Any | None], *, every_steps: int, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._ask, self._every_steps, self._sleep = ask, every_steps, sleep
        self._known: Any | None = None

    def news(self, done: int) -> str | None:
        """What has become known when `done` steps are done, in a line; every worker calls this after each step."""
        found = None if done % self._every_steps else self._ask()
        if found is None or found == self._known:
            return None
        self._known = found
        return f"the machine of rank {', '.join(map(str, found.preempted_ranks))} is about to go"

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Holds back what the block raises when a machine was about to go, until Ray has missed it.

        The other workers fail as soon as it is gone. Ray would take that for a fault of theirs, which counts as one of
        `max_failures`; when it has missed the machine, it starts the workers anew without counting.
        """
        try:
            yield
        except Exception:
            if self._known is not None:
                self._sleep(MISSED_S)
            raise
