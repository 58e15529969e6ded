"""Preemption notices: what the cloud tells Ray about machines that it will take away."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray import train

from distilray.training.loop import Hook, Step

# Until Ray has missed a machine that went without a word: several health checks.
FAILURE_DETECTION_S = 60.0


class PreemptionWatcher(Hook):
    """Requests a checkpoint when a machine of the run is about to go.

    Args:
        every_steps: how often workers ask Ray; they ask together, since they are answered together.
        notice: takes a line for the user.
        ask: returns a `PreemptionInfo` or None; Ray Train's own function when left out.
    """

    phase = "preemption"

    def __init__(
        self,
        *,
        every_steps: int,
        notice: Callable[[str], None],
        ask: Callable[[], Any | None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._every_steps, self._notice, self._sleep = every_steps, notice, sleep
        self._ask = ask or train.get_preemption_info
        self._known: Any | None = None

    def after_step(self, step: Step) -> None:
        """Ask Ray, except after the last step, whose checkpoint is written anyway."""
        notice = None if step.is_last else self.poll(step.done)
        if notice:
            step.checkpoint_now = True
            self._notice(f"{notice}: checkpoint of step {step.done:,} now")

    def poll(self, done: int) -> str | None:
        """Return what has become known after `done` steps, in one line; every worker calls this after each step."""
        info = None if done % self._every_steps else self._ask()
        if info is None or info == self._known:
            return None
        self._known = info
        return f"the machine of rank {', '.join(map(str, info.preempted_ranks))} is about to go"

    @contextlib.contextmanager
    def attribute_errors(self) -> Iterator[None]:
        """Hold back errors of the block when a machine was about to go, until Ray has missed it.

        The other workers fail as soon as it is gone. Ray would count that as one of `max_failures`; when it has missed
        the machine, it restarts the workers without counting.
        """
        try:
            yield
        except Exception:
            if self._known is not None:
                self._sleep(FAILURE_DETECTION_S)
            raise
